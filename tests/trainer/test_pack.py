"""Packing and layout: against a literal packer, and against separate forwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.recipe import Model
from tamis.trainer.data import Examples, prepare
from tamis.trainer.pack import (
    best_fit_decreasing,
    micro_batches,
    next_fit_increasing,
    packed,
    padded,
    shares,
    stacked,
)

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


@pytest.mark.parametrize("packing", ["best_fit", "dynamic", "none"])
@pytest.mark.parametrize("tokens", [64, 300, 4096])
@pytest.mark.parametrize("parts", [1, 3])
def test_micro_batches_hold_every_row_once_within_the_bound(
    examples: Examples, packing: Any, tokens: int, parts: int
) -> None:
    rows = np.arange(5, 30)
    made = [
        micro_batches(
            examples, rows, packing=packing, tokens=tokens, device="cuda", part=(i, parts)
        )
        for i in range(parts)
    ]
    assert len({len(batches) for batches in made}) == 1  # each process as often as the others
    for batch in (batch for batches in made for batch in batches):
        b, t = batch["input_ids"].shape
        assert b * t <= tokens or len(batch["rows"]) == 1
        parted = [examples.row(i)[0].tolist() for i in batch["rows"].tolist()]
        assert documents(batch) == parted or not parted
    found = sorted(i for batches in made for batch in batches for i in batch["rows"].tolist())
    assert found == rows.tolist()


def test_a_process_without_a_row_trains_nothing_as_often(examples: Examples) -> None:
    given: dict[str, Any] = {"packing": "best_fit", "tokens": 64, "device": "cuda"}
    first, second = (micro_batches(examples, np.array([7]), part=(i, 2), **given) for i in range(2))
    assert len(first) == len(second) == 1
    assert (second[0]["labels"] == -100).all() and len(second[0]["rows"]) == 0


@given(sizes=lengths, parts=st.integers(1, 5))
def test_shares_are_even_and_hold_every_row_once(sizes: list[int], parts: int) -> None:
    found = shares(np.array(sizes, dtype=np.int64), parts)
    assert sorted(i for share in found for i in share.tolist()) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in share) for share in found]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_dynamic_packs_at_most_max_length_and_stacks(examples: Examples) -> None:
    given: dict[str, Any] = {"packing": "dynamic", "tokens": 400, "device": "cuda"}
    found = micro_batches(examples, np.arange(30), max_length=90, **given)
    for batch in found:
        b, t = batch["input_ids"].shape
        assert t <= max(90, int(examples.lengths.max())) and b * t <= 400
    assert any(len(batch["input_ids"]) > 1 for batch in found)


def documents(batch: dict[str, Any]) -> list[list[int]]:
    """The rows of a batch by what keeps them apart: lines, positions that start anew, padding."""
    if "position_ids" not in batch:
        # Every row ends in the line break behind its last turn; padding is token 0, not in rows.
        return [row[row != 0].tolist() for row in batch["input_ids"]]
    found = []
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        starts = np.flatnonzero(positions.numpy() == 0)
        parts = [part.tolist() for part in np.split(ids.numpy(), starts[1:])]
        found += [part for part in parts if part != [0]]
    return found


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
        assert (other["loss_weights"][at, :n] == examples.weight[i]).all()


def dynamic_cases(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(folder.glob("dynamic_pack*.json"))
    assert files
    return {f"{p.name}:{k}": v for p in files for k, v in json.loads(p.read_text()).items()}


def test_dynamic_pack_is_the_authors(vectors: Callable[[str], Path]) -> None:
    for name, case in dynamic_cases(vectors("codeact")).items():
        wanted, most = case["dynamic_pack_official"], case["max_length"]
        bins = next_fit_increasing(case["lengths"], most)
        assert bins == wanted["bins"], name
        used = np.minimum(case["lengths"], most)
        multiple = case["pad_to_multiple_of"] or 1
        width = -(-max(int(used[b].sum()) for b in bins) // multiple) * multiple
        assert (len(bins), width) == (wanted["rows"], wanted["width"]), name
        assert len(bins) * width - used.sum() == wanted["padding_tokens"], name
        # Best fit, where every row fits, needs as many bins as trl's, filled alike.
        theirs = case["best_fit_decreasing_trl"]
        ours = best_fit_decreasing(used, most)
        totals = [sorted(int(used[b].sum()) for b in packing) for packing in (ours, theirs["bins"])]
        assert totals[0] == totals[1], name
        if "optimal_rows" in case:
            assert len(bins) <= 2 * case["optimal_rows"]


@given(sizes=lengths, capacity=st.integers(1, 60))
def test_dynamic_pack_keeps_its_promises(sizes: list[int], capacity: int) -> None:
    bins = next_fit_increasing(sizes, capacity)
    used = np.minimum(np.array(sizes, dtype=np.int64), capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    assert all(used[b].sum() <= capacity for b in bins)
    order = [int(used[i]) for b in bins for i in b]
    assert order == sorted(order)
    for one, other in pairwise(bins):
        assert used[one].sum() + used[other[0]] > capacity


def test_the_layout_of_dynamic_pack_without_its_leak(vectors: Callable[[str], Path]) -> None:
    files = sorted(vectors("codeact").glob("dynamic_pack*.npz"))
    assert files
    for path in files:
        case = np.load(path)
        sizes, prompts = case["lengths"], case["prompt_lengths"]
        parts = [100_000 * (i + 1) + np.arange(n) for i, n in enumerate(sizes)]
        answers = [np.arange(n) >= p for n, p in zip(sizes, prompts, strict=True)]
        examples = Examples(
            np.concatenate(parts),
            np.concatenate(answers),
            np.cumsum([0, *sizes]),
            np.ones(len(sizes)),
            [str(i) for i in range(len(sizes))],
            {},
            0,
        )
        bins = next_fit_increasing(sizes, int(case["max_length"]))
        found = {n: v.numpy() for n, v in stacked(examples, bins).items()}
        assert (found["input_ids"] == case["input_ids"]).all()
        assert (found["position_ids"] == case["position_ids_reset"]).all()
        assert (found["labels"] == case["labels_safe"]).all()
        segments = np.zeros_like(case["segment_ids"])
        for row, (line, start, stop) in zip(found["rows"], found["spans"], strict=True):
            segments[line, start:stop] = row + 1
        assert (segments == case["segment_ids"]).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("adapter", [False, True])
def test_rows_of_a_bin_do_not_see_each_other(
    examples: Examples, tiny: Model, attention: str, adapter: bool
) -> None:
    import torch

    from tamis.language.load import load_model

    model = load_model(tiny, "cpu")
    model.set_attn_implementation(attention)
    if adapter:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config).eval()
    bins = [[3, 17, 8], [20], [1, 2]]
    batch = stacked(examples, bins)
    with torch.inference_mode():
        together = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        found = [together[line, start:stop] for line, start, stop in batch["spans"].tolist()]
        apart = [
            model(input_ids=torch.from_numpy(examples.row(i)[0])[None]).logits[0]
            for i in batch["rows"].tolist()
        ]
    wanted = torch.cat(apart)
    assert torch.isfinite(together).all()  # padding too
    assert float((torch.cat(found) - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("longest", [900, 1500])
def test_best_fit_stacks_packs_that_are_no_longer_than_they_need_be(longest: int) -> None:
    """A batch of many tokens is several packs under each other, not one that is as long."""
    sizes = np.r_[longest, np.random.default_rng(0).integers(20, 400, 60)]
    indptr, total = np.r_[0, np.cumsum(sizes)], int(sizes.sum())
    names = [str(i) for i in range(61)]
    ids, labelled = np.zeros(total, np.int32), np.ones(total, bool)
    examples = Examples(ids, labelled, indptr, np.ones(61), names, {}, 0)
    made = micro_batches(examples, np.arange(61), packing="best_fit", tokens=8192, device="cuda")
    shapes = [tuple(batch["input_ids"].shape) for batch in made]
    assert all(a * b <= 8192 and b <= max(1024, longest) for a, b in shapes)
    assert sorted(r for batch in made for r in batch["rows"].tolist()) == list(range(61))
    assert sum(a * b for a, b in shapes) < 1.15 * total
