"""Noise on the embeddings while a model is trained: NEFTune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Noise:
    """Adds to the embedding of each token of a row uniform noise in +-alpha / sqrt(L d).

    L is the number of tokens of the row itself, however rows are packed or padded, and d the width
    of the embeddings. Only passes inside `of` are noisy, and of these only those in training mode,
    so neither evaluation nor the start model ever is. Each row of a step has a generator of its
    own: its noise does not hang on how the step is cut, nor on whether the run was interrupted.

    Source: Jain et al., "NEFTune", 2023 (arXiv 2310.05914). The usual implementation takes L from
    the padded or packed length of the batch.
    """

    def __init__(self, alpha: float):
        self.alpha = alpha
        self._spans: list[list[int]] = []
        self._seeds: list[int] = []

    def upon(self, model: Any) -> Noise:
        """Listen to the embeddings of a model; returns itself."""
        if self.alpha > 0:
            model.get_input_embeddings().register_forward_hook(self._add)
        return self

    @contextmanager
    def of(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Noise for one pass over `batch`: the rows at its `spans`, one seed each in `noise`."""
        if self.alpha > 0:
            self._spans, self._seeds = batch["spans"].tolist(), batch["noise"]
        try:
            yield
        finally:
            self._spans, self._seeds = [], []

    def _add(self, module: Any, given: Any, embedded: Any) -> Any:
        import torch

        if not (module.training and self._spans):
            return None
        noise = torch.zeros_like(embedded)
        for (line, start, end), seed in zip(self._spans, self._seeds, strict=True):
            shape, width = (end - start, embedded.shape[-1]), embedded.shape[-1]
            rng = torch.Generator(embedded.device).manual_seed(seed)
            drawn = torch.rand(shape, generator=rng, device=embedded.device) * 2 - 1
            noise[line, start:end] = drawn * (self.alpha / (shape[0] * width) ** 0.5)
        return embedded + noise
