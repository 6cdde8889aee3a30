"""Which rows of a step go through the model together, and how they are laid out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis.language.batch import batches
from tamis.trainer.data import Examples

# A CPU gains nothing from larger batches: attention over a packed row costs the square of its
# length, and padding grows with the number of rows.
_CPU_TOKENS = 512


def best_fit_decreasing(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Pack items into bins of `capacity`, each item into the fullest bin that takes it.

    Items come longest first, equal ones in their order; of equally full bins the oldest is taken.
    An item longer than `capacity` gets a bin of its own. Returns the items of each bin, bins in
    the order they were opened. Time O(n log n + n capacity / 64): free room is kept as the bits of
    one integer.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    bins: list[list[int]] = []
    room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set while some bin has r free
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        fitting = rooms >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            chosen = heapq.heappop(room[free])
            if not room[free]:
                rooms ^= 1 << free
        else:
            free, chosen = max(capacity, length), len(bins)
            bins.append([])
        bins[chosen].append(item)
        left = free - length
        heapq.heappush(room.setdefault(left, []), chosen)
        rooms |= 1 << left
    return bins


def micro_batches(
    examples: Examples, rows: np.ndarray, *, packing: bool, tokens: int, device: str
) -> list[dict[str, Any]]:
    """The rows of one optimizer step as batches of at most `tokens` tokens (a longer row is one).

    Packed, or padded with rows of like length together. Tensors are on the CPU.
    """
    lengths = examples.lengths[rows]
    if device == "cpu":
        tokens = min(tokens, max(_CPU_TOKENS, int(lengths.max())))
    if packing:
        return [packed(examples, rows[b]) for b in best_fit_decreasing(lengths, tokens)]
    return [padded(examples, rows[b]) for b in batches(lengths, tokens)]


def packed(examples: Examples, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Rows behind each other as one row of a batch of 1, without an attention mask.

    `position_ids` start anew with each row, which is what keeps the rows apart inside the model.
    The label of each row's first token is -100, so that no row predicts the next. `loss_weights`
    (float32) is the row's weight at each of its tokens.
    """
    import torch

    parts = [examples.row(i) for i in rows]
    columns = {
        "input_ids": np.concatenate([ids for ids, _ in parts]),
        "position_ids": np.concatenate([np.arange(len(ids)) for ids, _ in parts]),
        "labels": np.concatenate([labels for _, labels in parts]),
        "loss_weights": np.concatenate(
            [np.full(len(p[0]), examples.weight[i]) for i, p in zip(rows, parts, strict=True)]
        ).astype(np.float32),
    }
    return {name: torch.from_numpy(values)[None] for name, values in columns.items()}


def padded(examples: Examples, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Rows under each other, padded on the right with token 0 and label -100.

    Causal attention never looks to the right, so no mask is needed.
    """
    import torch

    parts = [examples.row(i) for i in rows]
    shape = (len(parts), max(len(ids) for ids, _ in parts))
    input_ids, labels = np.zeros(shape, dtype=np.int64), np.full(shape, -100, dtype=np.int64)
    for at, (ids, label) in enumerate(parts):
        input_ids[at, : len(ids)] = ids
        labels[at, : len(ids)] = label
    weights = np.repeat(examples.weight[rows].astype(np.float32)[:, None], shape[1], axis=1)
    columns = {"input_ids": input_ids, "labels": labels, "loss_weights": weights}
    return {name: torch.from_numpy(values) for name, values in columns.items()}
