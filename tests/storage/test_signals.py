"""Signals grow by parts and are read back in the order that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import StoreError
from tamis.storage import matrices
from tamis.storage.artifact import Store
from tamis.storage.signals import KEY, SignalTable, fingerprint

IDENTITY = {"scorer": "toy", "version": 1}


def table(store: Store) -> SignalTable:
    return SignalTable(store, "toy", fingerprint(IDENTITY))


def rows(keys: list[str]) -> pa.Table:
    return pa.table({KEY: keys, "value": [float(int(k)) for k in keys]})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=5),
    st.lists(st.integers(0, 99), max_size=12),
)
def test_what_was_appended_is_read_back_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], asked: list[int]
) -> None:
    signals = table(Store(tmp_path_factory.mktemp("store")))
    seen: set[int] = set()
    for shard in shards:
        new = sorted(set(shard) - seen)
        if new:
            signals.append(rows([str(i) for i in new]), IDENTITY)
            seen |= set(new)
    keys = pa.array([str(i) for i in asked], pa.string())
    assert signals.missing(keys).to_pylist() == [i not in seen for i in asked]
    if seen and set(asked) <= seen:
        got = signals.read(keys).column("value").to_pylist()
        assert got == [float(i) for i in asked]
    else:
        with pytest.raises(StoreError):
            signals.read(pa.array([*map(str, asked), "1000"]))


def test_the_fingerprint_depends_on_everything_but_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 1, "b": 3})


def test_half_written_parts_are_not_seen(tmp_path: Path) -> None:
    signals = table(Store(tmp_path))
    signals.append(rows(["1"]), IDENTITY)
    (signals.path / ".part-x.parquet.77.tmp").write_bytes(b"PAR1 half")
    assert signals.keys().to_pylist() == ["1"]


def test_a_matrix_has_one_row_a_sample_in_the_order_of_the_pool(tmp_path: Path) -> None:
    store = Store(tmp_path)
    signals = table(store)
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for part in ([3, 0], [4, 1, 2]):
        flat = pa.array(vectors[part].reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, 3)
        signals.append(pa.table({KEY: [str(i) for i in part], "vector": column}), IDENTITY)
    asked = [2, 2, 0, 4]
    keys = pa.array([str(i) for i in asked])
    key = fingerprint(IDENTITY)
    got = matrices.matrix(store, key, "vector", keys, say=lambda _: None)
    assert isinstance(got, np.memmap)
    np.testing.assert_array_equal(got, vectors[asked])
    with pytest.raises(StoreError, match="1 of 2 samples"):
        matrices.matrix(store, key, "vector", pa.array(["0", "9"]), say=lambda _: None)


def test_parts_whose_lists_are_all_empty_join_the_others(tmp_path: Path) -> None:
    turns = SignalTable(Store(tmp_path), "turns", fingerprint({"scorer": "turns"}))
    for key, row in (("a", []), ("b", [1.0, 2.0]), ("c", [])):
        kind = pa.list_(pa.float64() if row else pa.null())
        turns.append(pa.table({KEY: [key], "x": pa.array([row], kind)}), IDENTITY)
    found = turns.read(pa.array(["c", "b", "a"]), ["x"])
    assert found.column("x").to_pylist() == [[], [1.0, 2.0], []]
