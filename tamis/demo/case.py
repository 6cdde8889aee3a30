"""One question of the demo, with its right answer and a believable wrong one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One question. `wrong` has the form of `answer` and is false. `context` is what the question
    is about, where a row shape has a field for that."""

    skill: str
    key: str
    question: str
    answer: str
    wrong: str
    context: str = ""
