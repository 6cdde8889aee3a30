"""From manifest rows to what a step is trained on. No torch here."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import DataError
from tamis.language.render import Rendered, cut, renderings
from tamis.language.template import RenderError
from tamis.samples import decode_messages, decode_tools

NO_TOKEN = "no_trained_token"


@dataclass(frozen=True, slots=True)
class Examples:
    """n tokenised rows, their tokens one after the other.

    Row i holds `ids[indptr[i]:indptr[i + 1]]` (int32); `labelled` tells which of them carry loss,
    `weight` (n,) float64 how much, `row_id` whose they are. `dropped` counts by reason the rows
    that are not here, `truncated` those that lost their end, `split` those that stand here in
    several parts, since the template rewrites earlier turns (see `language.render`). `group` names
    the group of each row where an objective asks for one; `shown`, like `ids`, is what the model
    sees in their place. `token_weight` (float64, like `ids`) weighs single tokens, by default 1:
    what a token counts is the product of its own and its row's weight.
    """

    ids: np.ndarray
    labelled: np.ndarray
    indptr: np.ndarray
    weight: np.ndarray
    row_id: list[str]
    dropped: dict[str, int]
    truncated: int
    group: list[str] | None = None
    shown: np.ndarray | None = None
    split: int = 0
    token_weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.indptr)

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids and the labels of one row, labels -100 where no loss is: nothing predicts the
        first token."""
        part = slice(self.indptr[i], self.indptr[i + 1])
        ids = self.ids[part].astype(np.int64)
        labels = np.where(self.labelled[part], ids, -100)
        labels[0] = -100
        return ids if self.shown is None else self.shown[part].astype(np.int64), labels

    def take(self, rows: np.ndarray) -> Examples:
        """The examples of these rows, copied, in this order."""
        lengths = self.lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Examples(
            self.ids[places],
            self.labelled[places],
            indptr,
            self.weight[rows],
            [self.row_id[i] for i in rows],
            self.dropped,
            self.truncated,
            None if self.group is None else [self.group[i] for i in rows],
            None if self.shown is None else self.shown[places],
            self.split,
            None if self.token_weight is None else self.token_weight[places],
        )

    def weights(self, i: int) -> np.ndarray | float:
        """What each token of a row counts, or all alike."""
        row = float(self.weight[i])
        if self.token_weight is None:
            return row
        found: np.ndarray = row * self.token_weight[self.indptr[i] : self.indptr[i + 1]]
        return found

    def targets(self) -> np.ndarray:
        """How many tokens of each row carry loss, (n,)."""
        counts: np.ndarray = np.add.reduceat(self._carried(), self.indptr[:-1], dtype=np.int64)
        return counts

    def masses(self) -> np.ndarray:
        """The sum of the token weights of each row's tokens that carry loss, (n,) float64."""
        if self.token_weight is None:
            return self.targets().astype(np.float64)
        each = np.where(self._carried(), self.token_weight, 0.0)
        found: np.ndarray = np.add.reduceat(each, self.indptr[:-1])
        return found

    def apiece(self) -> np.ndarray:
        """The weight of each row over its mass, (n,): what its tokens count where all rows are to
        count by their weight alone; 0 where the mass is."""
        masses = self.masses()
        return np.divide(self.weight, masses, out=np.zeros_like(masses), where=masses > 0)

    def _carried(self) -> np.ndarray:
        carried = self.labelled.copy()
        carried[self.indptr[:-1]] = False
        return carried

    def check(self) -> None:
        """Raise `DataError` for token weights that are no weights, or not one a token."""
        given = self.token_weight
        if given is None:
            return
        if given.shape != self.ids.shape or not (np.isfinite(given) & (given >= 0)).all():
            raise DataError(
                f"token_weight: expected {len(self.ids)} finite numbers >= 0, one a token"
            )
        if not (self.weight * self.masses()).sum() > 0:
            raise DataError("none of the rows can be trained on: weights that sum to 0")

    def fingerprint(self) -> str:
        """32 hex digits over everything that is trained on."""
        total = hashlib.blake2b(digest_size=16)
        own = () if self.token_weight is None else (self.token_weight,)
        for array in (self.ids, self.labelled, self.indptr, self.weight, *own):
            total.update(np.ascontiguousarray(array).tobytes())
        for names in (self.row_id, self.group or []):
            total.update("\0".join(names).encode())
        return total.hexdigest()


def prepare(
    rows: pa.Table,
    tokenizer: Any,
    *,
    prompt_style: str,
    max_length: int,
    group_by: str | None = None,
) -> Examples:
    """Render, mask and truncate rows (`row_id`, `messages`, `tools`, `weight`; messages as in
    `tamis.samples`).

    A row that the chat template cannot show whole becomes several examples with its id and weight,
    every answer in one of them. They are cut at `max_length` tokens, keeping the start. Rows that
    cannot be rendered, and rows left without a token that carries loss, are dropped and counted. A
    null weight is 1. The column `group_by` names the groups, null being a group too. Raises
    `DataError` for weights that are negative or not finite, for a column that is not there, or when
    nothing is left to train on.
    """
    weights, groups = _weights(rows), _groups(rows, group_by)
    kept: list[int] = []
    parts: list[Rendered] = []
    dropped: Counter[str] = Counter()
    truncated, split = 0, 0
    conversations = zip(
        decode_messages(rows.column("messages")), decode_tools(rows.column("tools")), strict=True
    )
    for i, (messages, tools) in enumerate(conversations):
        try:
            whole = renderings(messages, tools, tokenizer, prompt_style=prompt_style)
        except RenderError as error:
            dropped[error.reason] += 1
            continue
        shorter = [cut(part, max_length) for part in whole]
        left = [part for part, _ in shorter if any(part.labelled[1:])]
        dropped[NO_TOKEN] += not left
        split += len(left) > 1
        truncated += bool(left) and any(was_cut for _, was_cut in shorter)
        kept += [i] * len(left)
        parts += left
    if not kept or weights[kept].sum() <= 0:
        told = (
            ", ".join(f"{n} {reason}" for reason, n in dropped.items() if n)
            or "weights that sum to 0"
        )
        raise DataError(f"none of the {rows.num_rows} rows can be trained on: {told}")
    row_id = rows.column("row_id").to_pylist()
    return Examples(
        np.concatenate([np.array(part.ids, dtype=np.int32) for part in parts]),
        np.concatenate([np.array(part.labelled, dtype=bool) for part in parts]),
        np.cumsum([0, *(len(part.ids) for part in parts)]),
        weights[kept],
        [row_id[i] for i in kept],
        {reason: n for reason, n in sorted(dropped.items()) if n},
        truncated,
        groups and [groups[i] for i in kept],
        split=split,
    )


def _groups(rows: pa.Table, column: str | None) -> list[str] | None:
    if column is None:
        return None
    if column not in rows.schema.names:
        known = ", ".join(rows.schema.names)
        raise DataError(f"the rows have no column {column!r} to group by; they have {known}")
    return ["" if value is None else str(value) for value in rows.column(column).to_pylist()]


def _weights(rows: pa.Table) -> np.ndarray:
    column = rows.column("weight").to_pylist()
    weights = np.array([1.0 if w is None else w for w in column], dtype=np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        bad = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
        row = rows.column("row_id")[bad].as_py()
        raise DataError(f"weight {weights[bad]} of row {row}: expected a finite number >= 0")
    return weights


def steps(
    n: int, *, epochs: float, rows_per_step: int, max_steps: int | None, seed: int
) -> list[np.ndarray]:
    """The rows of every optimizer step: `rows_per_step` each, the last step has what is left.

    The rows come in a new random order every epoch; a fraction of an epoch takes the first rows of
    its order. The order depends on n and the seed alone, not on weights or lengths.
    """
    visits = max(1, round(n * epochs))
    orders = [np.random.default_rng([seed, e]).permutation(n) for e in range(math.ceil(visits / n))]
    order = np.concatenate(orders)[:visits]
    cuts = np.arange(rows_per_step, visits, rows_per_step)
    return np.split(order, cuts)[:max_steps]
