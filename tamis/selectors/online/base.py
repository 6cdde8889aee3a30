"""What every rule that picks rows of a training batch takes and gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.selectors.base import About

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Scores = dict[str, Any]


class BatchPicker:
    """A rule: a dataclass whose fields are its options, and a state that `start` makes.

    One batch is `score`, `pick`, `commit`, in this order. A batch is named arrays or tensors whose
    first axis are its B candidate rows; `needs` names the ones that the rule reads. The state is
    all that a resumed run needs to pick the same rows.
    """

    name: ClassVar[str]
    about: ClassVar[About]
    seed: int
    step: int

    def needs(self) -> frozenset[str]:
        """The columns of the batch it reads."""
        raise NotImplementedError

    def start(self, seed: int) -> None:
        """Begin anew: nothing seen, the generator at its start."""
        self.seed, self.step = seed, 0

    def score(self, batch: Mapping[str, Any]) -> Scores:
        """`total` (B,) float64, higher is kept, NaN where undefined, and what it is made of."""
        raise NotImplementedError

    def pick(self, scores: Scores, eligible: Mask, k: int) -> Rows:
        """At most `k` of the eligible rows, ascending. Ties go to the lowest row."""
        return best(scores["total"], eligible, k)

    def part(self, scores: Scores, rows: Rows) -> Scores:
        """The scores of some rows of the batch, by what was committed since `score`."""
        found: Scores = {name: values[rows.tolist()] for name, values in scores.items()}
        return found

    def commit(self, scores: Scores, picked: Rows) -> None:
        """Remember what was picked; once a batch, not for a batch that passes uncut."""
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors, arrays and plain numbers."""
        return {"seed": self.seed, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.seed, self.step = int(state["seed"]), int(state["step"])

    def generator(self) -> np.random.Generator:
        """The generator of this step: it hangs on seed, method and step, and on no draw before."""
        words = f"{self.seed} {self.name} {self.step}".encode()
        return np.random.default_rng(list(hashlib.sha256(words).digest()))


def best(total: F64, eligible: Mask, k: int) -> Rows:
    """The `k` highest of the eligible rows, ascending; rows without a number come last.

    Rows are ranked inside the eligible ones, so that a row that may not be picked never ties with
    one whose score is undefined. Raises `DataError` for a `k` below 1 or lengths that differ.
    """
    if k < 1 or total.shape != eligible.shape:
        raise DataError(
            f"a batch needs k of 1 or more and one score a row, got k={k}, "
            f"{total.shape} scores, {eligible.shape} rows"
        )
    rows = np.flatnonzero(eligible)
    rank = np.where(np.isfinite(total[rows]), total[rows], -np.inf)
    return np.sort(rows[np.argsort(-rank, kind="stable")[:k]]).astype(np.int64)


def column(batch: Mapping[str, Any], name: str, method: str) -> Any:
    """A column of the batch. Raises `DataError` when it is absent."""
    if name not in batch:
        raise DataError(
            f"online method {method} needs {name} of each row of a batch; "
            f"the batch has {', '.join(sorted(batch)) or 'nothing'}"
        )
    return batch[name]


def numbers(batch: Mapping[str, Any], name: str, method: str) -> F64:
    """A column of the batch as float64 on the CPU."""
    given = column(batch, name, method)
    if hasattr(given, "detach"):
        given = given.detach().double().cpu().numpy()
    return np.asarray(given, np.float64)
