"""Trusted rows beside the candidates: which of them come when, and what a weighted step weighs."""

from __future__ import annotations

import numpy as np

from tamis.errors import DataError
from tamis.trainer.data import Examples


def turn(rows: int, first: int, count: int, seed: int) -> np.ndarray:
    """Of `rows` rows in a new random order each round, `count` from place `first` on.

    Every row comes once a round. It hangs on the seed and the place alone, so there is nothing to
    save.
    """
    places = first + np.arange(count)
    rounds = {int(r): np.random.default_rng([seed, int(r)]).permutation(rows) for r in
              np.unique(places // rows)}  # fmt: skip
    return np.array([rounds[int(p // rows)][p % rows] for p in places], dtype=np.int64)


def joined(one: Examples, other: Examples) -> Examples:
    """The rows of both, those of `one` first."""
    if one.shown is not None or other.shown is not None:
        raise DataError("rows that are shown otherwise than they are labelled cannot be joined")
    return Examples(
        np.concatenate([one.ids, other.ids]),
        np.concatenate([one.labelled, other.labelled]),
        np.concatenate([one.indptr, other.indptr[1:] + one.indptr[-1]]),
        np.concatenate([one.weight, other.weight]),
        [*one.row_id, *other.row_id],
        one.dropped,
        one.truncated,
        None if one.group is None else [*one.group, *(other.group or [""] * len(other))],
        token_weight=_token_weights(one, other),
    )


def _token_weights(*parts: Examples) -> np.ndarray | None:
    if all(part.token_weight is None for part in parts):
        return None
    given = ((part.token_weight, len(part.ids)) for part in parts)
    return np.concatenate([np.ones(n) if w is None else w for w, n in given])


def weighted(weight: np.ndarray, a: np.ndarray, masses: np.ndarray, trusted: int) -> np.ndarray:
    """What a token of each row weighs, so that the sum of weight * nll over a step is BDS's loss.

    mean(safe losses) + mean(a_i l_i), losses being means over a row's tokens, of whose weights
    `masses` are the sums; the second mean is by the rows' own `weight`. The last `trusted` rows are
    the safe ones. Divide by nothing: a step whose rows all have a small a is to move the model
    little.
    """
    n = len(weight) - trusted
    shares = np.empty(len(weight))
    shares[:n] = weight[:n] * a / max(weight[:n].sum(), np.finfo(np.float64).tiny)
    shares[n:] = weight[n:] / max(weight[n:].sum(), np.finfo(np.float64).tiny)
    found: np.ndarray = np.divide(shares, masses, out=np.zeros_like(shares), where=masses > 0)
    return found
