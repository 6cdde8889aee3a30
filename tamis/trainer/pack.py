"""Which rows of a step go through the model together, and how they are laid out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tamis.language.batch import batches
from tamis.trainer.data import Examples

Packing = Literal["best_fit", "dynamic", "none"]

# A CPU gains nothing from larger batches: attention over a packed row costs the square of its
# length, and padding grows with the number of rows. A longer row stays alone, so that it does not
# widen the packs of others.
_CPU_TOKENS = 512
# Attention costs the square of a pack's length, though most of it may not be seen, and a GPU is as
# full of several packs as of one.
_PACK = 1024


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


def next_fit_increasing(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """CodeACT's Dynamic Pack: pack items into bins of `capacity`, shortest first, into the one open
    bin; an item that does not fit closes it.

    Equal items come in their order; an item longer than `capacity` counts as `capacity`. Returns
    the items of each bin in order. O(n log n); at most twice the bins that are needed. Bins are
    often not full to the brim, and alike in length, so that little padding stands behind them.

    Source: Lv et al., "Data-efficient LLM Fine-tuning for Code Generation", 2024 (arXiv
    2408.02193). The authors' code gives the pack one attention mask, so that rows of a bin see each
    other; here they do not (see `stacked`).
    """
    clipped = np.minimum(np.asarray(lengths, dtype=np.int64), capacity)
    bins: list[list[int]] = []
    left = 0
    for item in np.argsort(clipped, kind="stable").tolist():
        if clipped[item] > left or not bins:
            bins.append([])
            left = capacity
        bins[-1].append(item)
        left -= int(clipped[item])
    return bins


def shares(lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """Deal the rows of a step out to `parts` processes: longest first, each to the process with the
    fewest tokens so far, of equal ones the first. Gives the row numbers of each, ascending."""
    taken: list[list[int]] = [[] for _ in range(parts)]
    heap = [(0, part) for part in range(parts)]
    for item in np.argsort(-lengths, kind="stable").tolist():
        tokens, part = heapq.heappop(heap)
        taken[part].append(item)
        heapq.heappush(heap, (tokens + int(lengths[item]), part))
    return [np.array(sorted(items), dtype=np.int64) for items in taken]


def micro_batches(
    examples: Examples,
    rows: np.ndarray,
    *,
    packing: Packing,
    tokens: int,
    device: str,
    max_length: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> list[dict[str, Any]]:
    """The rows of one optimizer step as batches of at most `tokens` tokens (a longer row is one).

    `best_fit` packs rows into packs of at most 1,024 tokens, or as long as the longest row, and
    stacks those; `dynamic` into packs of at most `max_length`, by its own order; `none` pads rows
    of like length. Of `part` = (i, n) only the share of process i of n is made, and the same number
    of batches for each, filled up with batches that train nothing: processes that cut weights among
    them must go through the model equally often. Tensors are on the CPU.
    """
    lengths = examples.lengths[rows]
    if device == "cpu":
        tokens = min(tokens, _CPU_TOKENS)
    longest = max(_PACK, int(lengths.max())) if packing == "best_fit" else max_length or tokens
    capacity = min(tokens, longest)
    plans = [
        [[rows[mine[b]] for b in bins] for bins in _plan(lengths[mine], packing, tokens, capacity)]
        for mine in shares(lengths, part[1])
    ]
    if packing == "none":
        made = [padded(examples, np.concatenate(bins)) for bins in plans[part[0]]]
    else:
        made = [stacked(examples, bins) for bins in plans[part[0]]]
    missing = max(map(len, plans)) - len(made)
    return made + [_nothing(packed=packing != "none") for _ in range(missing)]


def _plan(lengths: np.ndarray, packing: Packing, tokens: int, capacity: int) -> list[list[Any]]:
    """The bins of each batch, a bin as row numbers."""
    if packing == "none":
        return [[[i] for i in batch] for batch in batches(lengths, tokens)]
    pack = best_fit_decreasing if packing == "best_fit" else next_fit_increasing
    bins = pack(lengths, capacity)
    widths = np.array([lengths[b].sum() for b in bins], dtype=np.int64)
    return [[bins[i] for i in batch] for batch in batches(widths, tokens)]


def packed(examples: Examples, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Rows behind each other as one row of a batch of 1: see `stacked`."""
    return stacked(examples, [rows])


def stacked(examples: Examples, bins: Sequence[Sequence[int] | np.ndarray]) -> dict[str, Any]:
    """Bins under each other, in each bin its rows behind each other, without an attention mask.

    `position_ids` start anew with each row, which is what keeps the rows apart inside the model
    (without a cache; see `loss.terms_forward`). The label of each row's first token is -100, so
    that no row predicts the next. `loss_weights` (float32) is the row's weight at each of its
    tokens, times the token's own. A shorter bin is padded on the right with token 0, position 0 and
    label -100: each token there is a row of its own. `rows` (r,) tells which of the examples are
    here, `spans` (r, 3) where each of them lies: line, first column, end.
    """
    import torch

    width = max(int(examples.lengths[list(rows)].sum()) for rows in bins)
    shape = (len(bins), width)
    ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    labels, weights = np.full(shape, -100, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    spans: list[list[int]] = []
    for at, rows in enumerate(bins):
        start = 0
        for i in rows:
            here = slice(start, start := start + int(examples.lengths[i]))
            ids[at, here], labels[at, here] = examples.row(int(i))
            positions[at, here] = np.arange(here.stop - here.start)
            weights[at, here] = examples.weights(int(i))
            spans.append([at, here.start, here.stop])
    columns = {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "loss_weights": weights,
        "rows": np.concatenate([np.asarray(rows, dtype=np.int64) for rows in bins]),
        "spans": np.array(spans, dtype=np.int64),
    }
    return {name: torch.from_numpy(values) for name, values in columns.items()}


def padded(examples: Examples, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Rows under each other, padded on the right with token 0 and label -100.

    Causal attention never looks to the right, so neither a mask nor positions are needed.
    """
    batch = stacked(examples, [[i] for i in rows])
    del batch["position_ids"]
    return batch


def _nothing(*, packed: bool) -> dict[str, Any]:
    """A batch without a trained token."""
    import torch

    zeros = torch.zeros((1, 2), dtype=torch.int64)
    batch = {"input_ids": zeros, "labels": zeros - 100, "loss_weights": zeros.float()}
    batch |= {"rows": zeros[0, :0], "spans": torch.zeros((0, 3), dtype=torch.int64)}
    return {**batch, "position_ids": torch.arange(2)[None]} if packed else batch
