"""What the model is asked about an answer. Raise `VERSION` when a word changes."""

from __future__ import annotations

from tamis.language.exchange import Exchange
from tamis.language.question import Case, Question, both_orders

VERSION = 1
# What the options are worth: right, wrong, not sure.
VALUES = (1.0, 0.0, 0.5)

_QUESTIONS = (
    both_orders(
        "Is the proposed answer correct?",
        ("It is correct.", "It is incorrect.", "I am not sure."),
    ),
    both_orders(
        "Would you put your own name to the proposed answer?",
        (
            "Yes, I am certain that it is right.",
            "No, something in it is wrong.",
            "I cannot tell.",
        ),
    ),
)


def case(pair: Exchange) -> Case:
    """The request and the answer, as the model is shown them before each question."""
    return Case(
        "You check whether a proposed answer to a request is right.\n\nRequest:\n",
        pair.request,
        f"\n\nProposed answer:\n{pair.answer.strip()}\n\n",
    )


def questions(*, both: bool) -> list[Question]:
    """Two wordings, each in one order of the options or in both."""
    return [q for pair in _QUESTIONS for q in (pair if both else pair[:1])]
