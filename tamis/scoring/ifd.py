"""Instruction-following difficulty: how much the prompt helps a model to say the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns, Rendering

ZERO_ALONE = "answer_alone_has_no_loss"


@dataclass(frozen=True)
class Ifd(AnswerSignal):
    """Three published ways to compare NLL_cond (given the prompt) with NLL_alone (the answer only).

    `loss_ratio` = NLL_cond / NLL_alone: Cherry LLM (Li et al., 2023, arXiv 2308.12032). `ppl_ratio`
    = exp(NLL_cond - NLL_alone): Superfiltering (Li et al., 2024, arXiv 2402.00530) and CodeACT (Lv
    et al., 2024, arXiv 2408.02193). `log_ratio` is the logarithm of the latter: the same order, and
    < 0 is the safe way to ask for < 1. The ratios agree on the side of 1, not on the ranking.

    Differs from the authors' code: prompt and answer are one rendering cut at the answer, so both
    averages cover the same tokens; BOS (or EOS) stands before the answer alone; what cannot be
    scored is null with a reason. `compat` gives `ppl_ratio` 0 there, as CodeACT's code does (0
    passes its filter < 1, so such rows may be selected). Cost: one pass over prompt and answer, one
    over the answer.
    """

    compat: bool = False

    name: ClassVar[str] = "ifd"
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How much the instruction helps a language model to say the answer.",
        "needs": "a causal language model that knows the kind of text",
        "view": "answer, given all before it and by itself",
        "cost": "that of nll and one more pass over the answers",
        "avoid": "with a model that does not know the kind of text, or on low-quality pools: deita "
        "found it worse than random there",
    }
    renderings: ClassVar[frozenset[Rendering]] = frozenset({"conditional", "answer"})
    fields = ("loss_ratio", "ppl_ratio", "log_ratio", "nll_cond", "nll_alone", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """All NaN where no token could be scored; `nll_cond` and `nll_alone` are means, in nats."""
        tokens = answers.tokens
        count = np.maximum(tokens, 1)
        cond, alone = answers.nll() / count, answers.nll("answer") / count
        columns = ratios(cond, alone, compat=self.compat)
        reason = answers.facts["reason"].copy()
        reason[(tokens > 0) & (alone == 0)] = ZERO_ALONE
        return {
            **columns,
            "nll_cond": cond,
            "nll_alone": alone,
            **answers.facts,
            "reason": reason,
        }


def ratios(cond: np.ndarray, alone: np.ndarray, *, compat: bool = False) -> Columns:
    """The three variants from mean NLLs (n,), float64; NaN stays NaN.

    `loss_ratio` is NaN where `alone` is 0. With `compat`, `ppl_ratio` is 0 where it is undefined.
    """
    log_ratio = cond - alone
    ppl_ratio = np.exp(log_ratio)
    if compat:
        ppl_ratio = np.where(np.isfinite(ppl_ratio), ppl_ratio, 0.0)
    loss_ratio = cond / np.where(alone == 0, np.nan, alone)
    return {"loss_ratio": loss_ratio, "ppl_ratio": ppl_ratio, "log_ratio": log_ratio}


def from_logprobs(
    conditional: np.ndarray, alone: np.ndarray, end: int, *, compat: bool = False
) -> dict[str, float]:
    """The IFD variants of one row from given log-probabilities, for models that run elsewhere.

    `conditional` holds those of tokens 1..L-1 of prompt and answer given their prefix, `end` is the
    number of prompt tokens; `alone` those of all tokens of the answer pass but its first. Returns
    `nll_cond`, `nll_alone` and the ratios, NaN where a side has no token. With `compat`, the
    bookkeeping of CodeACT's `calculate_ifd`: `ppl_ratio` is 0 there.
    """
    answer = conditional[max(end - 1, 0) :]
    cond, by_itself = _mean_nll(answer), _mean_nll(alone)
    columns = ratios(np.array([cond]), np.array([by_itself]), compat=compat)
    values = {name: float(column[0]) for name, column in columns.items()}
    return {**values, "nll_cond": cond, "nll_alone": by_itself}


def _mean_nll(logprobs: np.ndarray) -> float:
    return float(-np.mean(logprobs, dtype=np.float64)) if len(logprobs) else float("nan")
