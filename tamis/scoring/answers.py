"""The answers of conversations as forward passes, and what comes back of them.

Two renderings. *conditional*: the conversation as the model reads it, and of it every token of an
assistant turn that has text, up to and including its end-of-turn token. *answer*: each of those
turns by itself behind BOS (EOS when the tokenizer has no BOS). Both passes hold the same token ids,
cut from one rendering, so averages over them cover the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import TamisError
from tamis.language.forward import LOGPROB, Done, Engine, Pass
from tamis.language.network import STATES, Part
from tamis.language.render import cut, render
from tamis.language.tally import Tally
from tamis.language.template import RenderError
from tamis.samples import answers as answer_texts
from tamis.scoring.base import Advance, Columns, Rendering

NO_TEXT = "no_text_answer"
NO_TOKEN = "no_answer_token_left"
NOT_TRAINED = "answer_not_trained"


@dataclass(frozen=True, slots=True)
class Answer:
    """The passes of one row, the UTF-8 bytes of the text their tokens spell, and the share of its
    answer tokens that fell behind the cut-off."""

    conditional: Pass
    alone: tuple[Pass, ...]
    utf8_bytes: int
    cut: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """The passes of n rows, or why a row has none."""

    rows: Sequence[Answer | str]

    @property
    def scored(self) -> dict[int, Answer]:
        """Those that have passes, by the number of the row."""
        return {i: row for i, row in enumerate(self.rows) if isinstance(row, Answer)}

    @property
    def facts(self) -> Columns:
        """The columns every signal of answers has: `tokens` that are scored, int64 (n,); `cut`, the
        share that fell behind the cut-off, NaN where nothing could be rendered; `reason`."""
        tokens = np.zeros(len(self.rows), dtype=np.int64)
        cut = np.array([1.0 if row == NO_TOKEN else np.nan for row in self.rows])
        for i, answer in self.scored.items():
            tokens[i], cut[i] = len(answer.conditional.targets), answer.cut
        reason = [None if isinstance(row, Answer) else row for row in self.rows]
        return {"tokens": tokens, "cut": cut, "reason": np.array(reason, dtype=object)}

    @property
    def utf8_bytes(self) -> np.ndarray:
        """Length of the text the scored tokens spell, int64 (n,)."""
        return np.array([getattr(row, "utf8_bytes", 0) for row in self.rows], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What forward passes gave of the answer tokens of n rows.

    `row` (m,) tells the row of each token, ascending. `parts` holds float64 (m,) for what tokens
    have, of the conditional rendering, and float32 (n, d) for states of rows, NaN where a row has
    no pass. `alone` (m,) are the log-probabilities of the answer rendering, None when no scorer
    asked for it. `facts` and `utf8_bytes` as in `Prepared`.
    """

    row: np.ndarray
    parts: Mapping[Part, np.ndarray]
    alone: np.ndarray | None
    utf8_bytes: np.ndarray
    facts: Columns

    @property
    def tokens(self) -> np.ndarray:
        """Scored tokens of each row, int64 (n,)."""
        return self.facts["tokens"]

    def nll(self, rendering: Rendering = "conditional") -> np.ndarray:
        """Sum of -log p over the tokens of each row, float64 (n,); NaN where there is no token."""
        values = self.parts["logprob"] if rendering == "conditional" else self.alone
        if values is None:
            raise TamisError("the answers were not scored by themselves: ask for that rendering")
        return self._total(-values)

    def mean(self, part: Part) -> np.ndarray:
        """Mean over the tokens of each row, float64 (n,); NaN where there is no token."""
        return self._total(self.parts[part]) / np.maximum(self.tokens, 1)

    def largest(self, part: Part) -> np.ndarray:
        """Maximum over the tokens of each row, float64 (n,); NaN where there is no token."""
        starts = np.flatnonzero(np.diff(self.row, prepend=-1))
        found = np.full(len(self.tokens), np.nan)
        if len(starts):
            found[self.row[starts]] = np.maximum.reduceat(self.parts[part], starts)
        return found

    def _total(self, values: np.ndarray) -> np.ndarray:
        total = np.bincount(self.row, weights=values, minlength=len(self.tokens))
        return np.where(self.tokens > 0, total, np.nan)


def passes(
    messages: Sequence[Mapping[str, Any]], tools: Any, engine: Engine, *, alone: bool
) -> Answer | str:
    """The passes of a conversation, or the reason why it has none.

    Reasons: `no_text_answer`, `answer_not_trained` (every answer is marked train: false),
    `no_answer_token_left` (the prompt fills the cut-off), or what rendering gives.
    """
    if not any(map(_is_answer, messages)):
        return NO_TEXT
    try:
        whole = render(messages, tools, engine.tokenizer, prompt_style=engine.model.prompt_style)
    except RenderError as error:
        return error.reason
    rendered, _ = cut(whole, engine.max_length)
    kept = dict(zip(rendered.turns, rendered.spans, strict=True))
    spans = dict(zip(whole.turns, whole.spans, strict=True))
    text_turns = [t for t in spans if _is_answer(messages[t])]
    if not text_turns:
        return NOT_TRAINED
    labelled = np.array(whole.labelled, dtype=bool)
    labelled[:1] = False  # nothing predicts the first token of a sequence
    found = {
        t: kept[t][0] + np.flatnonzero(labelled[slice(*kept[t])]) for t in text_turns if t in kept
    }
    scored = {t: targets for t, targets in found.items() if len(targets)}
    if not scored:
        return NO_TOKEN
    wanted = sum(int(labelled[slice(*spans[t])].sum()) for t in text_turns)
    return Answer(
        conditional=Pass(rendered.ids, np.concatenate(list(scored.values()))),
        alone=_alone(rendered.ids, scored, engine.tokenizer) if alone else (),
        utf8_bytes=sum(
            _bytes(messages[t], rendered.ids, kept[t], kept[t] == spans[t], engine.tokenizer)
            for t in scored
        ),
        cut=1 - sum(map(len, scored.values())) / wanted,
    )


def prepare(
    engine: Engine, rows: Iterable[Sequence[Any]], tools: Iterable[Any], *, alone: bool
) -> Prepared:
    """Render all rows (their messages, their tools); `alone` adds the answer rendering."""
    pairs = zip(rows, tools, strict=True)
    return Prepared([passes(messages, offered, engine, alone=alone) for messages, offered in pairs])


def score(
    engine: Engine, prepared: Prepared, parts: frozenset[Part], *, alone: bool, advance: Advance
) -> AnswerParts:
    """Run the passes of all rows in one go; `advance` is told of rows as their last is finished."""
    scored, n = prepared.scored, len(prepared.rows)
    work = [(i, p) for i, a in scored.items() for p in (a.conditional, *a.alone)]
    done = counting(np.array([i for i, _ in work], dtype=np.int64), n, advance)
    values = engine.run([p for _, p in work], parts, done=done)
    conditional, by_itself, at = [], [], 0
    for answer in scored.values():
        conditional.append(values[at])
        by_itself.extend(v["logprob"] for v in values[at + 1 : at + 1 + len(answer.alone)])
        at += 1 + len(answer.alone)
    facts = prepared.facts
    return AnswerParts(
        row=np.repeat(np.arange(n), facts["tokens"]),
        parts=_gathered(conditional, list(scored), n, parts, engine),
        alone=_joined(by_itself) if alone else None,
        utf8_bytes=prepared.utf8_bytes,
        facts=facts,
    )


def reads(prepared: Prepared, *, whole: bool) -> Tally:
    """What the model reads for these rows; with `whole` it reads sequences to their end, as for
    hidden states."""
    passes = [p for answer in prepared.scored.values() for p in (answer.conditional, *answer.alone)]
    widths = [len(p.ids) if whole else p.width for p in passes]
    return Tally(sum(width > 0 for width in widths), sum(widths))


def counting(owner: np.ndarray, n: int, advance: Advance) -> Done:
    """Tells `advance` of rows whose last part is finished; `owner` is the row of each part."""
    left = np.bincount(owner, minlength=n)
    advance(int((left == 0).sum()))

    def done(finished: np.ndarray) -> None:
        before = left > 0
        np.subtract.at(left, owner[finished], 1)
        advance(int((before & (left == 0)).sum()))

    return done


def _gathered(
    values: list[Mapping[Part, np.ndarray]],
    owners: list[int],
    n: int,
    parts: frozenset[Part],
    engine: Engine,
) -> dict[Part, np.ndarray]:
    """The parts of all rows: tokens one behind the other, states a row each."""
    found: dict[Part, np.ndarray] = {}
    for part in parts | LOGPROB:
        if part in STATES:
            found[part] = np.full((n, engine.hidden_size), np.nan, dtype=np.float32)
            for owner, value in zip(owners, values, strict=True):
                found[part][owner] = value[part]
        else:
            found[part] = _joined([value[part] for value in values])
    return found


def _is_answer(message: Mapping[str, Any]) -> bool:
    return bool(answer_texts([message]))


def _alone(
    ids: Sequence[int], scored: Mapping[int, np.ndarray], tokenizer: Any
) -> tuple[Pass, ...]:
    """Each turn behind a start token, predicting the very tokens the conditional pass predicts."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise TamisError(
            "an answer by itself needs a start token, and the tokenizer has neither BOS nor EOS: "
            "use nll instead of ifd"
        )
    made = []
    for targets in scored.values():
        first, last = int(targets[0]), int(targets[-1])
        made.append(Pass([start, *ids[first : last + 1]], targets - first + 1))
    return tuple(made)


def _bytes(
    message: Mapping[str, Any], ids: Sequence[int], span: tuple[int, int], whole: bool, tok: Any
) -> int:
    """UTF-8 bytes of a turn's text; of what its tokens spell where that is less or more."""
    if whole and not message.get("tool_calls"):
        return len(message["content"].encode())
    text = tok.decode(list(ids[span[0] : span[1]]), skip_special_tokens=True)
    return len(text.encode())


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)
