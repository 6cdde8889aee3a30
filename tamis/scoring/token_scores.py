"""The scores that Adapt-infinity lets compete, of one model and out of one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tamis.errors import DataError
from tamis.language.network import Part
from tamis.numerics.logits import label_scores
from tamis.scoring.answer_signal import FACTS, AnswerSignal
from tamis.scoring.answers import AnswerParts
from tamis.scoring.base import Columns, Rendering


@dataclass(frozen=True)
class TokenScores(AnswerSignal):
    """Over the answer tokens: `log_ppl` the mean NLL, `el2n`, `entropy` the means of theirs, and
    `grounding` = PPL(answer alone) / PPL(answer | prompt), above 1 where the prompt helps.

    Maharana et al., "Adapt-infinity", 2024 (arXiv 2410.10636). There the last is image grounding,
    with and without the image; with the prompt in the image's place it is 1 / IFD, for text alone.
    Differs from the authors' code: the perplexity is exp of the mean NLL as in the paper, where the
    code has the mean of 1/p; entropy is over answer tokens only. `from_logits(official=True)` gives
    theirs. Cost: one pass over prompt and answer, one over the answer, as `ifd`.
    """

    name: ClassVar[str] = "token_scores"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "Perplexity, EL2N, entropy and how much the prompt helps: the scores that "
        "adapt_inf lets compete.",
        "needs": "a causal language model",
        "view": "answer, given all before it and by itself",
        "cost": "that of ifd; free beside it",
        "avoid": "when one of them is enough: nll, el2n, entropy or ifd has it alone",
    }
    renderings: ClassVar[frozenset[Rendering]] = frozenset({"conditional", "answer"})
    parts: ClassVar[frozenset[Part]] = frozenset({"entropy", "el2n"})
    fields = ("log_ppl", "el2n", "entropy", "grounding", *FACTS)

    def reduce(self, answers: AnswerParts) -> Columns:
        """All NaN where no token could be scored; `reason` says why."""
        count = np.maximum(answers.tokens, 1)
        cond, alone = answers.nll() / count, answers.nll("answer") / count
        return {
            "log_ppl": cond,
            "el2n": answers.mean("el2n"),
            "entropy": answers.mean("entropy"),
            "grounding": np.exp(alone - cond),
            **answers.facts,
        }


def from_logits(
    logits: np.ndarray, labels: np.ndarray, *, official: bool = False
) -> dict[str, float]:
    """`ppl`, `el2n` and `entropy` of one sequence from its logits, for models that run elsewhere.

    `logits` (t, V); `labels` (t,) the token of each position, below 0 where it does not count;
    nothing predicts the first. NaN without a label. `official` gives the perplexity and the entropy
    of the authors' code: the mean of 1/p, and over all positions. Works in float64, O(t V).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(f"logits {logits.shape} expect labels of shape (t,), given {labels.shape}")
    before = np.flatnonzero(labels[1:] >= 0)
    found = label_scores(logits[before], labels[before + 1])
    entropy = found.entropy
    if official:
        entropy = label_scores(logits, np.zeros(len(labels), dtype=np.int64)).entropy
    if not len(before):
        nothing = float("nan")
        all_positions = float(entropy.mean()) if len(entropy) else nothing
        return {"ppl": nothing, "el2n": nothing, "entropy": all_positions}
    ppl = np.exp(-found.logprob).mean() if official else np.exp(-found.logprob.mean())
    return {"ppl": float(ppl), "el2n": float(found.el2n.mean()), "entropy": float(entropy.mean())}
