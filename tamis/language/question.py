"""Multiple-choice questions to a causal model, answered by the probabilities of the letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tamis.errors import TamisError
from tamis.language.forward import Done, Engine
from tamis.language.next_token import after_suffixes
from tamis.numerics.options import LEAST_MASS, Answers, answers

LETTERS = ("A", "B", "C")
# How a letter may stand after the prompt: behind a bracket that is open, or at the start of a turn.
_SPELLINGS = {"plain": ("{}",), "chat": ("{}", " {}", "({}")}
_PLACE = "\u2063content\u2063"
# So many rows tell whether a model answers by letters at all.
TRIAL = 32


class Case(NamedTuple):
    """What a question is about: `head` and `rest` stay whole, `middle` is cut from its left where
    the model cannot read so much."""

    head: str
    middle: str
    rest: str


class Question(NamedTuple):
    """A question with its options in the order shown; `meaning[i]` is what letter i stands for."""

    text: str
    options: tuple[str, ...]
    meaning: tuple[int, ...]


class Asked(NamedTuple):
    """What n cases gave for q questions: `answers` in the order of meanings, share (n, q, o) and
    mass (n, q), NaN where a case `fits` (n,) not; `cut` (n,) is the share of the tokens of the
    middles that was cut."""

    answers: Answers
    fits: np.ndarray
    cut: np.ndarray


def ask(
    engine: Engine,
    cases: Sequence[Case],
    questions: Sequence[Question],
    *,
    done: Done | None = None,
) -> Asked:
    """Ask every question of every case; cost: one forward of each case and of each question.

    The prompt is in the model's `prompt_style`: one user turn, or plain text that ends in an open
    bracket. A letter counts in every spelling that is one token.
    """
    tokenizer, style = engine.tokenizer, engine.model.prompt_style
    opening, closing = _frame(tokenizer, style)
    suffixes = [[*_encode(tokenizer, _shown(q, style)), *closing] for q in questions]
    spelt = spellings(tokenizer, style)
    room = engine.max_length - max(map(len, suffixes))
    prefixes = [_prefix(tokenizer, opening, case, room) for case in cases]
    fits = np.array([p is not None for p, _ in prefixes], dtype=bool)
    wanted = np.flatnonzero(fits)
    counts = [len(s) for s in spelt]
    flat = [i for s in spelt for i in s]
    found = after_suffixes(
        engine,
        [prefixes[i][0] or [] for i in wanted],
        suffixes,
        [flat] * len(questions),
        done=None if done is None else lambda rows: done(wanted[rows]),
    )
    share = np.full((len(cases), len(questions), len(LETTERS)), np.nan)
    mass = np.full((len(cases), len(questions)), np.nan)
    for j, (question, logprobs) in enumerate(zip(questions, found, strict=True)):
        read = answers(logprobs, counts)
        share[wanted[:, None], j, list(question.meaning)] = read.share
        mass[wanted, j] = read.mass
    return Asked(Answers(share, mass), fits, np.array([cut for _, cut in prefixes]))


def both_orders(text: str, options: tuple[str, str, str]) -> tuple[Question, Question]:
    """The question with its first two options exchanged as well: a model that likes a letter
    better, whichever, then gains nothing."""
    one, two, three = options
    return Question(text, options, (0, 1, 2)), Question(text, (two, one, three), (1, 0, 2))


def check_answers(given: Answers, engine: Engine) -> None:
    """Raise `TamisError` when more than half of the first rows, of 8 or more, could not be read at
    all."""
    known = ~np.isnan(given.mass[:TRIAL]).all(axis=1)
    unread = ~given.read[:TRIAL].any(axis=1) & known
    if known.sum() < TRIAL // 4 or unread.sum() <= known.sum() / 2:
        return
    style = engine.model.prompt_style
    other = "plain" if style == "chat" else "chat"
    raise TamisError(
        f"{engine.model.location} does not answer by letters in prompt_style {style}: in "
        f"{unread.sum()} of the first {known.sum()} rows A, B and C together had less than "
        f"{LEAST_MASS:g}; set prompt_style: {other} if that is how it was trained, or another model"
    )


def spellings(tokenizer: Any, style: str) -> list[list[int]]:
    """The ids of every token that spells each letter, ascending.

    Raises `TamisError` when a letter has none or two letters share one.
    """
    vocabulary = tokenizer.get_vocab()
    found = []
    for letter in LETTERS:
        coded = [_encode(tokenizer, form.format(letter)) for form in _SPELLINGS[style]]
        ids = {c[0] for c in coded if len(c) == 1}
        found.append(sorted(ids | {vocabulary[letter]} if letter in vocabulary else ids))
    if not all(found) or len({i for ids in found for i in ids}) != sum(map(len, found)):
        raise TamisError(
            "the tokenizer has no token of its own for each of A, B and C: use another model"
        )
    return found


def _prefix(
    tokenizer: Any, opening: list[int], case: Case, room: int
) -> tuple[list[int] | None, float]:
    """The ids of a case, None where even without its middle it is too long, and the share cut."""
    head, middle, rest = (_encode(tokenizer, part) for part in case)
    left = room - len(opening) - len(head) - len(rest)
    if left < 0:
        return None, 1.0
    kept = middle[max(0, len(middle) - left) :]
    cut = 1 - len(kept) / len(middle) if middle else 0.0
    return [*opening, *head, *kept, *rest], cut


def _shown(question: Question, style: str) -> str:
    lines = [f"({letter}) {o}" for letter, o in zip(LETTERS, question.options, strict=True)]
    asked = "\n".join([question.text, *lines, "Reply with one letter: A, B or C."])
    return f"{asked}\nAnswer: (" if style == "plain" else asked


def _frame(tokenizer: Any, style: str) -> tuple[list[int], list[int]]:
    """The ids before and behind what is asked. Templates that can think are told not to."""
    if style == "plain":
        first = tokenizer("a")["input_ids"][:1]
        return ([first[0]] if first == [tokenizer.bos_token_id] else []), []
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACE}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    before, _, after = text.partition(_PLACE)
    return _encode(tokenizer, before), _encode(tokenizer, after)


def _encode(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
