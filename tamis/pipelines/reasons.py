"""The reasons of selections in words."""

from __future__ import annotations

_MEANING = {
    "selected": "it was selected",
    "held_out": "it is kept for evaluation",
    "no_trained_token": "no token of it would be trained on after the cut-off",
    "licence": "its licence is not among those allowed",
    "duplicate": "an exact duplicate of a sample with a lower id",
    "too_similar": "too similar to a kept sample",
    "redundant": "too similar to another sample of its cluster",
    "covered": "kept samples cover it",
    "represented": "a kept sample stands for it",
    "no_score": "it has no score",
    "bad_embedding": "its embedding is not finite",
    "zero_vector": "its embedding is zero, and such a sample is kept already",
    "not_listed": "it is not on the list",
    "group_has_no_share": "its group has no share of the budget",
    "too_hard": "it is above the range the method takes",
    "over_budget": "the budget was spent before its turn",
    "not_drawn": "the draw passed it by",
    "below_cut": "other rows have better values",
}


def meaning(reason: str) -> str:
    """A reason code in words."""
    kind, _, column = reason.partition(":")
    if kind == "null":
        return f"it has no value of {column}"
    if kind == "filter":
        return f"the filter on {column} dropped it"
    return _MEANING.get(reason, reason.replace("_", " "))
