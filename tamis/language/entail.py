"""Whether two texts contradict each other, by a sequence classifier trained for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import RecipeError, TamisError
from tamis.language.batch import batches
from tamis.language.digest import folder_digest, hub_revision, is_hub_id
from tamis.language.load import CONFIG, TOKENIZER, WEIGHTS, quiet
from tamis.language.packed import pack
from tamis.language.parallel import spread
from tamis.language.room import Room
from tamis.language.windows import Windows, windows
from tamis.numerics.device import resolve

_BUDGET = {"cpu": 2048, "cuda": 65_536}
_LONGEST = 512


@dataclass(frozen=True)
class Entailment:
    """A classifier for pairs of texts, a folder or hub id (`name` or `name@revision`); loaded when
    first used. Which class is contradiction is read from its config: models order them
    differently."""

    model: str
    device: str

    def identity(self) -> Mapping[str, Any]:
        """The classifier by content; never a path."""
        folder, name, revision = self._place
        if folder is not None:
            return {"files": folder_digest(folder, (*WEIGHTS, *CONFIG, *TOKENIZER))}
        return {"hub": name, "revision": hub_revision(name, revision)}

    def check(self) -> None:
        """Raise if it is not there or no class of it means contradiction; loads no weights."""
        folder, name, _ = self._place
        if folder is None and not is_hub_id(name):
            raise RecipeError(f"there is no folder {self.model}, and it is not a hub id")
        if folder is not None and not (folder / "config.json").is_file():
            raise RecipeError(f"there is no model (config.json) in {folder}")
        self._contradiction  # noqa: B018

    def contradicted(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """P(contradiction) of (premise, hypothesis), float64 (n,), and the share of the tokens of
        each pair that was not read, float64 (n,).

        Softmax in float32. Equal pairs run once, sorted by length. Pairs longer than the model
        reads are compared in windows (see `windows`), and the largest probability is theirs: one
        sentence that contradicts another is enough.
        """
        distinct = list(dict.fromkeys(pairs))
        read = [Windows([pair], 0.0) for pair in distinct]
        for i in np.flatnonzero(self._lengths(distinct) > self._limit).tolist():
            read[i] = windows(*distinct[i], self._limit - self._special, self._count)
        parts = [part for found in read for part in found.pairs]
        starts = np.cumsum([0, *(len(found.pairs) for found in read)])[:-1]
        values, over = self._probabilities(parts)
        cut = np.array([found.cut for found in read])
        if len(distinct):
            values = np.maximum.reduceat(values, starts)
            cut = np.maximum(cut, np.maximum.reduceat(over, starts))
        at = {pair: i for i, pair in enumerate(distinct)}
        place = np.array([at[pair] for pair in pairs], dtype=np.int64)
        return values[place], cut[place]

    def _probabilities(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """P(contradiction) of pairs that fit, (m,), and the share of each that did not after all:
        of windows that take more tokens together than apart."""
        distinct = list(dict.fromkeys(pairs))
        lengths, limit = self._lengths(distinct), self._limit
        widths = np.minimum(lengths, limit)
        groups = list(batches(widths, self._room.tokens))
        found = np.zeros(len(distinct))

        def classify(rows: np.ndarray) -> np.ndarray:
            return self._classify([distinct[i] for i in rows])

        if groups:
            self._loaded  # noqa: B018 - once, before the threads ask for it
        with spread(resolve(self.device)) as run:
            results = run(lambda rows: self._room.run(rows, widths, classify), groups)
            for rows, values in zip(groups, results, strict=True):
                found[rows] = values
        over = np.maximum(0, lengths - limit) / np.maximum(1, lengths)
        at = {pair: i for i, pair in enumerate(distinct)}
        place = np.array([at[pair] for pair in pairs], dtype=np.int64)
        return found[place], over[place]

    def _classify(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        import torch

        tokenizer, model = self._loaded
        given = tokenizer(
            [a for a, _ in pairs],
            [b for _, b in pairs],
            truncation="longest_first",
            max_length=self._limit,
            padding=True,
            return_tensors="pt",
        ).to(resolve(self.device))
        with torch.inference_mode():
            p = torch.softmax(model(**given).logits.float(), dim=-1)
        values: np.ndarray = p[:, self._contradiction].cpu().numpy().astype(np.float64)
        return values

    def _lengths(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        if not pairs:
            return np.zeros(0, dtype=np.int64)
        coded = self._loaded[0]([a for a, _ in pairs], [b for _, b in pairs], verbose=False)
        return np.array([len(ids) for ids in coded["input_ids"]], dtype=np.int64)

    def _count(self, texts: Sequence[str]) -> np.ndarray:
        coded = self._loaded[0](list(texts), add_special_tokens=False, verbose=False)
        return np.array([len(ids) for ids in coded["input_ids"]], dtype=np.int64)

    @cached_property
    def _room(self) -> Room:
        return Room(_BUDGET[resolve(self.device)])

    @cached_property
    def _special(self) -> int:
        """Special tokens of a pair."""
        return int(self._loaded[0].num_special_tokens_to_add(pair=True))

    @cached_property
    def _limit(self) -> int:
        """The longest pair, in tokens."""
        most = getattr(self._config, "max_position_embeddings", None) or _LONGEST
        return min(int(most), int(self._loaded[0].model_max_length), _LONGEST)

    @cached_property
    def _contradiction(self) -> int:
        labels = {int(i): str(name) for i, name in self._config.id2label.items()}
        found = [i for i, name in labels.items() if name.lower().startswith("contradict")]
        if len(found) != 1:
            raise RecipeError(
                f"{self.model} is no model for inference: one of its classes must be named "
                f"contradiction, there are {', '.join(labels.values())}"
            )
        return found[0]

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._from(AutoConfig)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = self._from(AutoTokenizer)
        model = self._from(
            AutoModelForSequenceClassification, dtype=torch.float32, use_safetensors=True
        )
        return tokenizer, pack(model.to(resolve(self.device)).eval())

    def _from(self, kind: Any, **options: Any) -> Any:
        folder, name, revision = self._place
        try:
            with quiet():
                return kind.from_pretrained(
                    str(folder or name),
                    revision=None if folder else hub_revision(name, revision),
                    **options,
                )
        except (OSError, ValueError, KeyError) as error:
            line = " ".join(str(error).split())[:300]
            raise TamisError(f"cannot load the model for inference {self.model}: {line}") from error

    @property
    def _place(self) -> tuple[Path | None, str, str | None]:
        if Path(self.model).is_dir():
            return Path(self.model), "", None
        name, _, revision = self.model.partition("@")
        return None, name, revision or None
