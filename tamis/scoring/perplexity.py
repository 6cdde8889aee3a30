"""Perplexity of the answers, and bits per byte, which compares across tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.errors import DataError
from tamis.numerics.logits import label_scores
from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns


@dataclass(frozen=True)
class Perplexity(AnswerSignal):
    """exp of the mean NLL of the answer tokens, and their bits per UTF-8 byte of answer text.

    The filter of POINTS (Liu et al., 2024, arXiv 2409.04828) keeps the lowest fifth. Differs from
    its script: the answer is found by its place in the template rather than by cutting a fixed
    number of tokens, log-softmax is in float32 rather than after rounding to bfloat16, rows that
    fail keep a reason rather than vanish. Cost: one forward pass a row.
    """

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Perplexity of the answers under a language model, and bits per byte.",
        "needs": "a causal language model",
        "view": "answer, given all before it",
        "cost": "that of nll; free beside it",
        "avoid": "to keep the lowest alone: short, repetitive boilerplate wins; deita found the "
        "highest far worse than random",
    }
    fields = ("ppl", "bits_per_byte", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """`ppl` and `bits_per_byte` are NaN where no token could be scored."""
        total = answers.nll()
        return {
            "ppl": np.exp(total / np.maximum(answers.tokens, 1)),
            "bits_per_byte": bits_per_byte(total, answers.utf8_bytes),
            **answers.facts,
        }


def bits_per_byte(nll_sum: np.ndarray, utf8_bytes: np.ndarray) -> np.ndarray:
    """nll_sum / (ln 2 x bytes), elementwise; NaN where there is no byte."""
    size = np.where(utf8_bytes > 0, utf8_bytes, np.nan)
    bits: np.ndarray = nll_sum / (np.log(2.0) * size)
    return bits


def from_logits(
    logits: np.ndarray, ids: np.ndarray, attention: np.ndarray, response: np.ndarray
) -> Columns:
    """Perplexity from the logits of a padded batch, for models that run elsewhere.

    `logits` (b, t, V); `ids`, `attention`, `response` (b, t), the masks 0 or 1, padding on either
    side. Token j counts if it is of the response and both j and j-1 are attended, j >= 1. Returns
    `tokens` (b,), and float64 `sum`, `mean` (nats) and `ppl`, the latter two NaN without a token.
    Works in float64, a row at a time: memory O(t V). Raises `DataError` on shapes that do not fit.
    """
    if logits.ndim != 3 or not (ids.shape == attention.shape == response.shape == logits.shape[:2]):
        raise DataError(
            f"logits {logits.shape} expect ids and masks of shape (b, t), "
            f"given {ids.shape}, {attention.shape}, {response.shape}"
        )
    counts = (response[:, 1:] > 0) & (attention[:, 1:] > 0) & (attention[:, :-1] > 0)
    total = np.zeros(len(ids))
    for i, counted in enumerate(counts):
        before = np.flatnonzero(counted)
        total[i] = -label_scores(logits[i, before], ids[i, before + 1]).logprob.sum()
    tokens = counts.sum(axis=1)
    mean = total / np.where(tokens > 0, tokens, np.nan)
    return {"tokens": tokens, "sum": total, "mean": mean, "ppl": np.exp(mean)}
