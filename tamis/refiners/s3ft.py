"""S3FT: answers in the model's own words, where they are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.language import asking, load
from tamis.language.exchange import Exchange, exchange
from tamis.language.forward import Engine
from tamis.language.question import Case, ask, both_orders, check_answers
from tamis.recipe import Model
from tamis.refiners.base import (
    Advance,
    Messages,
    Refined,
    Row,
    Writer,
    Written,
    judging,
    logprobs,
    write,
    writer,
)
from tamis.refiners.checkers import CHECKERS, Verdict

Checker = Literal["exact", "contains", "numeric", "llm"]
_PROMPTS = 1
_QUESTIONS = both_orders(
    "Does the candidate answer say the same as the reference answer, or is it right all the same?",
    ("Yes, it is right.", "No, it is wrong.", "I cannot tell."),
)
_GUIDE = (
    "\n\nHere is a reference answer:\n{}\n\nAnswer the request in your own words, guided by it. "
    "Write the answer alone."
)
# A text that speaks of the reference would teach the model to speak of one that is not there.
LEAKS = ("reference answer", "reference provided", "given reference", "provided answer")


def chosen(response: Verdict, paraphrase: Verdict | None) -> str:
    """Whose answer is taken: the model's own, its paraphrase, or the one the row came with."""
    if response == "yes":
        return "model"
    return "paraphrase" if paraphrase == "yes" else "gold"


@dataclass(frozen=True)
class S3ft:
    """Each answer becomes the most model-like one that is right: the model's own answer to the
    request, else its paraphrase of the given answer, else the given answer (gold).

    Right is what the first of `checkers` says that has a verdict: `exact` (yes or nothing),
    `numeric` (the last number; nothing where gold has none), `contains`, and `llm`: `judge` is
    asked, in both orders of the options, and says yes above `tau`. Empty and cut texts are wrong,
    a verdict that cannot be read counts as no, and where no checker has one gold stays. Texts
    must match `form`, a regular expression, where it is given. Rows are never dropped.

    Source: Gupta et al., 2025 (arXiv 2502.08130), of which no code was published; unit tests as
    judges are left out, since they run what a model wrote. Cost: one answer and one verdict a row,
    for those that fail as much again, and two forward passes for the log-probabilities.
    """

    model: Model
    judge: Model
    device: str
    checkers: tuple[Checker, ...] = ("exact", "llm")
    tau: float = 0.5
    form: str | None = None
    max_new_tokens: int = 512

    name: ClassVar[str] = "s3ft"
    version: ClassVar[int] = 1

    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def identity(self) -> Mapping[str, Any]:
        """The models, the options and the wording."""
        judged = "llm" in self.checkers
        return {
            "model": asking.identity(self.model),
            "judge": load.identity(self.judge) if judged else None,
            "prompts": _PROMPTS,
            "checkers": list(self.checkers),
            "tau": self.tau,
            "form": self.form,
            "max_new_tokens": self.max_new_tokens,
        }

    def check(self) -> None:
        """Raise if an option is out of range or a model is missing."""
        if not self.checkers or not 0 < self.tau < 1:
            raise RecipeError("s3ft needs checkers, and tau between 0 and 1")
        try:
            re.compile(self.form or "")
        except re.error as error:
            raise RecipeError(f"s3ft.form is no regular expression: {error}") from error
        asking.check(self.model, self.name, self.max_new_tokens)
        if "llm" in self.checkers:
            load.check(self.judge)

    def standing(self, columns: Mapping[str, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        """gold; looks at all rows."""
        return np.full(n, "gold", dtype=object), np.full(n, True)

    def refine(self, rows: Sequence[Row], *, advance: Advance) -> list[Refined]:
        """See `Refiner`: action model, paraphrase or gold."""
        pairs = [exchange(row.messages, row.tools) for row in rows]
        some = [(i, p) for i, p in enumerate(pairs) if isinstance(p, Exchange)]
        advance(len(rows) - len(some))
        own = self._written([(p.before, rows[i].tools) for i, p in some], advance)
        first = self._verdicts([p for _, p in some], own)
        failed = [j for j, verdict in enumerate(first) if verdict != "yes"]
        guided = [(_guided(some[j][1]), rows[some[j][0]].tools) for j in failed]
        again = self._written(guided, lambda _: None)
        second = self._verdicts([some[j][1] for j in failed], again, guarded=True)
        paraphrased = {j: (a, v) for j, a, v in zip(failed, again, second, strict=True)}
        found: dict[int, Refined] = {}
        for j, (i, pair) in enumerate(some):
            text, verdict = paraphrased.get(j, (None, None))
            found[i] = _outcome(pair, own[j], first[j], text, verdict)
        outcomes = [
            found[i] if isinstance(p, Exchange) else Refined("gold", p) for i, p in enumerate(pairs)
        ]
        return self._with_logprobs(rows, outcomes)

    def _written(
        self, rows: Sequence[tuple[Messages | None, Any]], advance: Advance
    ) -> list[Written | None]:
        there = [i for i, (messages, _) in enumerate(rows) if messages is not None]
        given = [(rows[i][0] or [], rows[i][1]) for i in there]
        advance(len(rows) - len(there))
        found = write(self._writer, given, max_new_tokens=self.max_new_tokens, advance=advance)
        written: list[Written | None] = [None] * len(rows)
        for i, text in zip(there, found, strict=True):
            written[i] = text
        return written

    def _verdicts(
        self, pairs: Sequence[Exchange], texts: Sequence[Written | None], *, guarded: bool = False
    ) -> list[Verdict]:
        """What the checkers say of each text; those that ask no model come first where listed."""
        found: list[Verdict | None] = [self._refused(text, guarded) for text in texts]
        for j, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
            if found[j] is None and text is not None and text.text == pair.answer.strip():
                found[j] = "yes"
        for checker in self.checkers:
            left = [j for j, verdict in enumerate(found) if verdict is None]
            given = [(pairs[j], text.text) for j in left if (text := texts[j]) is not None]
            if checker == "llm":
                said: Sequence[Verdict | None] = self._asked(given)
            else:
                said = [CHECKERS[checker](text, pair.answer) for pair, text in given]
            for j, verdict in zip(left, said, strict=True):
                found[j] = verdict
        return [verdict or "no" for verdict in found]

    def _refused(self, text: Written | None, guarded: bool) -> Verdict | None:
        if text is None:
            return "skipped"
        if not text.text:
            return "empty"
        if not text.ended or (self.form and not re.search(self.form, text.text)):
            return "no"
        lower = text.text.lower()
        return "no" if guarded and any(phrase in lower for phrase in LEAKS) else None

    def _asked(self, given: Sequence[tuple[Exchange, str]]) -> list[Verdict | None]:
        asked = ask(self._judge, [_case(pair, text) for pair, text in given], _QUESTIONS).answers
        check_answers(asked, self._judge)
        yes, no = asked.share[..., 0], asked.share[..., 1]
        p = (yes / (yes + no)).mean(axis=1)
        return ["error" if np.isnan(v) else "yes" if v > self.tau else "no" for v in p]

    def _with_logprobs(self, rows: Sequence[Row], outcomes: list[Refined]) -> list[Refined]:
        """Adds the mean log-probability a token of the answer before and after: it should rise. A
        server tells none of texts that it did not write."""
        changed = [i for i, outcome in enumerate(outcomes) if outcome.messages is not None]
        engine = self._writer
        if not changed or not isinstance(engine, Engine):
            return outcomes
        tools = [rows[i].tools for i in changed]
        before = logprobs(engine, [rows[i].messages for i in changed], tools)
        after = logprobs(engine, [outcomes[i].messages or [] for i in changed], tools)
        for i, gold, taken in zip(changed, before, after, strict=True):
            told = outcomes[i].confidences
            told = {**told, "logprob_before": gold, "logprob_after": taken}
            outcomes[i] = replace(outcomes[i], confidences=told)
        return outcomes

    @cached_property
    def _writer(self) -> Writer:
        return writer(self.model, self.device)

    @cached_property
    def _judge(self) -> Engine:
        return judging(self.judge, self.model, self.device, self._writer)


def _outcome(
    pair: Exchange,
    own: Written | None,
    first: Verdict,
    paraphrase: Written | None,
    second: Verdict | None,
) -> Refined:
    source = chosen(first, second)
    tried = own if source == "model" or paraphrase is None else paraphrase
    told = {"judge_model": first, "judge_paraphrase": second or "skipped"}
    text = tried.text if tried is not None else None
    if source == "gold" or text is None or text == pair.answer.strip():
        return Refined(source, source, before=pair.answer, candidate=text, confidences=told)
    return Refined(source, source, pair.answered(text), pair.answer, text, text, told)


def _guided(pair: Exchange) -> Messages | None:
    """The request with the reference behind it; None where no user asks last."""
    last = pair.before[-1]
    if last["role"] != "user":
        return None
    told = _GUIDE.format(pair.answer.strip())
    return [*pair.before[:-1], {**last, "content": f"{last.get('content') or ''}{told}"}]


def _case(pair: Exchange, text: str) -> Case:
    return Case(
        "You check a candidate answer against a reference answer.\n\nRequest:\n",
        pair.request,
        f"\n\nReference answer:\n{pair.answer.strip()}\n\nCandidate answer:\n{text}\n\n",
    )
