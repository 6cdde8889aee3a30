"""CLEAR's Auto-correct: a tuned model's answer replaces one that a judge trusts less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.language import asking, load
from tamis.language.exchange import Exchange, exchange
from tamis.language.forward import Engine
from tamis.language.question import Case, Question, ask, check_answers
from tamis.numerics.above import Ties, above
from tamis.numerics.cells import code
from tamis.numerics.options import Answers
from tamis.recipe import Model
from tamis.refiners.base import (
    Advance,
    Refined,
    Row,
    Writer,
    judging,
    logprobs,
    write,
    writer,
)

Scope = Literal["low_confidence", "all"]
Verdict = Literal["letters", "likelihood"]
_ASKED = "Which response is better?"
_OPTIONS = ("The first response.", "The second response.", "They are equally good.")
PREFERENCES = ("candidate", "original", "tie")
# Raise when a word of the question changes.
_PROMPTS = 1


def looked_at(believed: np.ndarray, scope: Scope) -> np.ndarray:
    """Which rows may be corrected: those that are not believed, or all."""
    return np.full(len(believed), True) if scope == "all" else ~believed


def standing(believed: np.ndarray) -> np.ndarray:
    """What becomes of rows without a better answer: believed ones are kept, others dropped."""
    return np.where(believed, "keep", "drop").astype(object)


def sure_enough(candidate: np.ndarray, confidence: np.ndarray, eta: float) -> np.ndarray:
    """Whether the candidate is preferred with a confidence above `eta`; NaN is not."""
    return candidate & (confidence > eta)


def actions(
    believed: np.ndarray, candidate: np.ndarray, confidence: np.ndarray, eta: float, scope: Scope
) -> np.ndarray:
    """keep, correct or drop for each of n rows.

    `believed` tells whether the confidence in the given answer is above the threshold, `candidate`
    whether the judge prefers the other one, `confidence` how surely.
    """
    fixed = sure_enough(candidate, confidence, eta) & looked_at(believed, scope)
    return np.where(fixed, "correct", standing(believed))


@dataclass(frozen=True)
class ClearCorrect:
    """Rows whose answer is not believed get the answer of `model`, if `judge` clearly prefers it.

    A row is believed where `column` is above `threshold`, of the rows alike in `within` if that is
    given (see the scorer clear_filter). The
    candidate is the greedy answer of `model`, best one that was tuned on the data. `judge` (the
    model before tuning) is shown both, in both orders, and its letters are averaged; the candidate
    is taken where it is the most probable verdict and its probability above `eta`. Rows that are
    neither believed nor corrected have the action drop; they are not removed here.

    `verdict="likelihood"` asks no judge: the probability of the candidate is c / (c + g), with c
    and g the geometric means of the token probabilities of the candidate and of the given answer
    under `model`. It is for models that cannot answer by letters.

    Source: Chen and Mueller, 2024 (arXiv 2403.12776), of which no code was published; the
    likelihood is not theirs. Cost: one answer and two forward passes for every row looked at.
    """

    model: Model
    judge: Model
    device: str
    column: str = "clear.confidence"
    threshold: Literal["median"] | float = "median"
    ties: Ties = "drop"
    within: tuple[str, ...] = ()
    eta: float = 0.8
    scope: Scope = "low_confidence"
    verdict: Verdict = "letters"
    max_new_tokens: int = 512

    name: ClassVar[str] = "clear_correct"
    version: ClassVar[int] = 1

    def needs(self) -> frozenset[str]:
        """The confidence, and the columns to compare within."""
        return frozenset({self.column, *self.within})

    def identity(self) -> Mapping[str, Any]:
        """Both models, the options and the wording."""
        own = ("column", "threshold", "ties", "eta", "scope", "verdict", "max_new_tokens")
        asked = self.verdict == "letters"
        return {
            "model": asking.identity(self.model),
            "judge": load.identity(self.judge) if asked else None,
            "prompts": _PROMPTS if asked else None,
            "within": list(self.within),
            **{name: getattr(self, name) for name in own},
        }

    def check(self) -> None:
        """Raise if an option is out of range or a model is missing."""
        if not 0 <= self.eta <= 1:
            raise RecipeError(f"clear_correct.eta must lie in 0..1, got {self.eta}")
        if self.within and self.threshold != "median":
            raise RecipeError("clear_correct: within is for the median, not a number")
        asking.check(self.model, self.name, self.max_new_tokens)
        if self.verdict == "letters":
            load.check(self.judge)
        elif self.model.endpoint is not None:
            raise RecipeError(
                "clear_correct: verdict: likelihood needs a model with its weights here, since a "
                "server tells no log-probabilities of texts; take letters"
            )

    def standing(self, columns: Mapping[str, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        """keep and drop by the threshold over all rows; looks at all rows or those to drop."""
        within = [code(columns[name], name, self.name) for name in self.within]
        given = columns[self.column].astype(float)
        believed = above(given, self.threshold, self.ties, within=within).keep
        return standing(believed), looked_at(believed, self.scope)

    def refine(self, rows: Sequence[Row], *, advance: Advance) -> list[Refined]:
        """See `Refiner`: action correct where the candidate is taken."""
        found: dict[int, Refined] = {}
        pairs: dict[int, Exchange] = {}
        for i, row in enumerate(rows):
            pair = exchange(row.messages, row.tools)
            if isinstance(pair, Exchange):
                pairs[i] = pair
            else:
                found[i] = Refined(None, pair)
        advance(len(found))
        written = write(
            self._writer,
            [(pair.before, rows[i].tools) for i, pair in pairs.items()],
            max_new_tokens=self.max_new_tokens,
            advance=advance,
        )
        tried: dict[int, str] = {}
        for (i, pair), answer in zip(pairs.items(), written, strict=True):
            if answer is None or not answer.text or not answer.ended:
                why = "not_written" if answer is None else "empty" if not answer.text else "cut"
                found[i] = Refined(None, f"candidate_{why}", before=pair.answer)
            elif answer.text.split() == pair.answer.split():
                found[i] = Refined(None, "tie", before=pair.answer, candidate=answer.text)
            else:
                tried[i] = answer.text
        share = (self._asked if self.verdict == "letters" else self._likelihood)(
            [(pairs[i], text, rows[i].tools) for i, text in tried.items()]
        )
        for (i, text), q in zip(tried.items(), share, strict=True):
            found[i] = self._outcome(pairs[i], text, q)
        return [found[i] for i in range(len(rows))]

    def _asked(self, pairs: Sequence[tuple[Exchange, str, Any]]) -> np.ndarray:
        """The probabilities of candidate, original and tie (m, 3); NaN where a verdict cannot be
        read in both orders."""
        shares, masses = [], []
        for meaning in ((0, 1, 2), (1, 0, 2)):
            cases = [
                _case(p, text, p.answer) if meaning[0] == 0 else _case(p, p.answer, text)
                for p, text, _ in pairs
            ]
            got = ask(self._judge, cases, [Question(_ASKED, _OPTIONS, meaning)]).answers
            shares.append(got.share[:, 0])
            masses.append(got.mass)
        check_answers(Answers(np.stack(shares, axis=1), np.hstack(masses)), self._judge)
        verdict: np.ndarray = np.mean(shares, axis=0)
        return verdict

    def _likelihood(self, pairs: Sequence[tuple[Exchange, str, Any]]) -> np.ndarray:
        """The same shape, without ties; NaN where an answer lies behind the cut-off."""
        engine, tools = self._writer, [offered for *_, offered in pairs]
        assert isinstance(engine, Engine)  # check() refuses servers
        texts = [
            [p.answered(text) for p, text, _ in pairs],
            [p.answered(p.answer) for p, *_ in pairs],
        ]
        own, given = (np.array(logprobs(engine, whole, tools), dtype=float) for whole in texts)
        candidate = np.exp(own - np.logaddexp(own, given))
        return np.stack([candidate, 1 - candidate, 0 * candidate], axis=1)

    def _outcome(self, pair: Exchange, text: str, q: np.ndarray) -> Refined:
        if np.isnan(q).any():
            return Refined(None, "parse_fail", before=pair.answer, candidate=text)
        preferred = PREFERENCES[int(q.argmax())]
        sure = float(q.max())
        told = {f"p_{name}": float(p) for name, p in zip(PREFERENCES, q, strict=True)}
        taken = sure_enough(np.array([preferred == "candidate"]), np.array([sure]), self.eta)[0]
        if not taken:
            why = "not_sure" if preferred == "candidate" else preferred
            return Refined(None, why, before=pair.answer, candidate=text, confidences=told)
        whole = pair.answered(text)
        return Refined("correct", "candidate", whole, pair.answer, text, text, told)

    @cached_property
    def _writer(self) -> Writer:
        return writer(self.model, self.device)

    @cached_property
    def _judge(self) -> Engine:
        return judging(self.judge, self.model, self.device, self._writer)


def _case(pair: Exchange, first: str, second: str) -> Case:
    return Case(
        "You compare two responses to a request.\n\nRequest:\n",
        pair.request,
        f"\n\nFirst response:\n{first.strip()}\n\nSecond response:\n{second.strip()}\n\n",
    )
