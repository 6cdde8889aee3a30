"""Packing and layout: against a literal packer, and against separate forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.recipe import Model
from tamis.trainer.data import Examples, prepare
from tamis.trainer.pack import best_fit_decreasing, micro_batches, packed, padded

lengths = st.lists(st.integers(1, 40), max_size=60)


def literal(sizes: list[int], capacity: int) -> list[list[int]]:
    """Best fit decreasing, word by word."""
    bins: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda j: (-sizes[j], j)):
        free = [max(capacity, sizes[b[0]]) - sum(sizes[j] for j in b) for b in bins]
        fitting = [(f, at) for at, f in enumerate(free) if f >= sizes[i]]
        if fitting:
            bins[min(fitting)[1]].append(i)
        else:
            bins.append([i])
    return bins


@given(sizes=lengths, capacity=st.integers(1, 60))
def test_packer_is_best_fit_decreasing(sizes: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(sizes, capacity)
    assert bins == literal(sizes, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in b) <= capacity or len(b) == 1 for b in bins)


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    weights = [0.25 * (i % 5) for i in range(len(sums))]
    return prepare(table(sums, weights), tokenizer, prompt_style="chat", max_length=256)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("tokens", [64, 300, 4096])
def test_micro_batches_hold_every_row_once_within_the_bound(
    examples: Examples, packing: bool, tokens: int
) -> None:
    rows = np.arange(5, 30)
    batches = micro_batches(examples, rows, packing=packing, tokens=tokens, device="cuda")
    for batch in batches:
        b, t = batch["input_ids"].shape
        alone = b == 1 and (not packing or int((batch["position_ids"] == 0).sum()) == 1)
        assert b * t <= tokens or alone
    found = sorted(ids for batch in batches for ids in documents(batch))
    assert found == sorted(examples.row(i)[0].tolist() for i in rows)


def documents(batch: dict[str, Any]) -> list[list[int]]:
    """The rows of a batch without what is not theirs."""
    ids = batch["input_ids"]
    if "position_ids" in batch:
        starts = np.flatnonzero(batch["position_ids"][0].numpy() == 0)
        return [part.tolist() for part in np.split(ids[0].numpy(), starts[1:])]
    # Every row ends in the line break behind its last turn; padding is token 0 (EOS), not in rows.
    return [row[row != 0].tolist() for row in ids]


def test_labels_and_weights_lie_where_the_rows_lie(examples: Examples) -> None:
    rows = [3, 17, 8]
    one = packed(examples, rows)
    want = np.concatenate([examples.row(i)[1] for i in rows])
    assert one["labels"][0].tolist() == want.tolist()
    starts = one["position_ids"][0] == 0
    assert (one["labels"][0][starts] == -100).all()
    weights = np.concatenate([[examples.weight[i]] * examples.lengths[i] for i in rows])
    assert one["loss_weights"][0].tolist() == weights.tolist()
    assert "attention_mask" not in one

    other = padded(examples, rows)
    for at, i in enumerate(rows):
        n = examples.lengths[i]
        assert other["labels"][at, :n].tolist() == examples.row(i)[1].tolist()
        assert (other["labels"][at, n:] == -100).all()
        assert (other["loss_weights"][at] == examples.weight[i]).all()


def test_packed_rows_do_not_see_each_other(examples: Examples, tiny: Model) -> None:
    import torch

    from tamis.language.load import load_model

    model = load_model(tiny, "cpu")
    rows = [3, 17, 8, 20]
    batch = packed(examples, rows)
    with torch.inference_mode():
        together = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits[0]
        apart = torch.cat(
            [model(input_ids=torch.from_numpy(examples.row(i)[0])[None]).logits[0] for i in rows]
        )
    assert float((together - apart).abs().max() / apart.abs().max()) < 1e-5
