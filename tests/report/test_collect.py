"""What the report takes from a store, against counts made by hand from the same files."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import recipe as recipes
from tamis.errors import StoreError
from tamis.pipelines import report as reports
from tamis.pipelines.histogram import BINS, histogram
from tamis.pipelines.run import Summary, context, run
from tamis.storage.catalogue import open_store


@contextmanager
def no_progress(title: str, total: int) -> Any:
    yield lambda n: None


def said(_: str) -> None:
    """Say nothing."""


def rows(source: str, count: int) -> list[dict[str, str]]:
    return [
        {"instruction": f"{source}: say {i} words", "output": " ".join(["word"] * (i % 13 + 1))}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("collect")
    for source, count in (("a", 60), ("b", 40)):
        lines = [orjson.dumps(row) for row in rows(source, count)]
        lines += [lines[0], b"not JSON <b>", b'{"instruction": "q", "output": ""}']
        (folder / f"{source}.jsonl").write_bytes(b"\n".join(lines))
    recipe = recipes.build(
        {
            "name": "collected",
            "store": str(folder / "store"),
            "sources": {s: {"path": str(folder / f"{s}.jsonl")} for s in ("a", "b")},
            "scores": {"length": {}},
            "filters": [{"column": "length.answer_words", "min": 4}],
            "select": {
                "method": "top",
                "options": {"column": "length.answer_words"},
                "budget": {"rows": 30},
                "drop_duplicates": True,
            },
        },
        where="test",
    )
    return run(context(recipe, say=said, progress=no_progress))


def test_counts_are_those_of_the_files(done: Summary) -> None:
    store = open_store(done.store)
    data = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    words = [i % 13 + 1 for count in (60, 40) for i in range(count)]
    filtered = sum(w < 4 for w in words)
    assert data.counts == {
        "ingested": 102,
        "rejected": 4,
        "exact duplicates": 2,
        "filtered out": filtered,
        "selected": 30,
    }
    assert sum(data.reasons.values()) == 102
    assert data.reasons["it was selected"] == 30
    assert [(c.source, c.rows_before) for c in data.composition] == [("a", 61), ("b", 41)]
    assert sum(c.rows_after for c in data.composition) == 30
    assert all(c.tokens_before is None for c in data.composition)
    assert sorted(r.count for r in data.rejected) == [2, 2]
    places = {place.rpartition("/")[2] for r in data.rejected for place, _ in r.examples}
    assert places == {"a.jsonl:62", "a.jsonl:63", "b.jsonl:42", "b.jsonl:43"}
    assert data.method == "top" and data.recipe == "collected" and not data.compared


def test_histograms_count_every_row(done: Summary) -> None:
    store = open_store(done.store)
    data = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    assert {h.signal for h in data.histograms} >= {"length.answer_words", "length.turns"}
    for chart in data.histograms:
        assert sum(chart.kept) == 30 and sum(chart.dropped) == 72
    words = next(h for h in data.histograms if h.signal == "length.answer_words")
    # one bin a number, and the longest answers were kept
    assert words.edges == [n + 0.5 for n in range(14)]
    counts = Counter(i % 13 + 1 for n in (60, 40) for i in range(n)) + Counter({1: 2})
    both = [k + d for k, d in zip(words.kept, words.dropped, strict=True)]
    assert both == [counts[n] for n in range(1, 14)]
    assert words.kept_median is not None and words.dropped_median is not None
    assert words.kept_median > words.dropped_median


def test_rows_of_either_side_with_their_values(done: Summary) -> None:
    store = open_store(done.store)
    data = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    assert len(data.kept) == len(data.dropped) == 20
    fate = {r["id"]: r["kept"] for r in store.sql("select id, kept from selections").to_pylist()}
    assert all(fate[row.id] for row in data.kept) and not any(fate[r.id] for r in data.dropped)
    ranks = {r["id"]: r["rank"] for r in store.sql("select id, rank from selections").to_pylist()}
    assert all(row.reason == f"number {ranks[row.id] + 1} of 30" for row in data.kept)
    reasons = {r["id"]: r["reason"] for r in store.sql("from selections").to_pylist()}
    short = [row for row in data.dropped if reasons[row.id] == "filter:length.answer_words"]
    assert short
    for row in short:
        assert row.values["length.answer_words"] < 4
        assert row.reason == "length.answer_words: the filter keeps at least 4"
    for row in [*data.kept, *data.dropped]:
        assert row.values["length.answer_words"] == len(row.turns[-1][1].split())
    again = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    assert [r.id for r in again.kept] == [r.id for r in data.kept]


def test_a_large_pool_is_sampled_and_the_page_says_so(
    done: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("subject", "rows"):
        monkeypatch.setattr(f"tamis.pipelines.reporting.{module}.MOST_ROWS", 50)
    store = open_store(done.store)
    data = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    for chart in data.histograms:
        assert sum(chart.kept) + sum(chart.dropped) + chart.missing == 50
    assert data.counts["ingested"] == 102  # counts are never those of a sample
    page = reports.write(done.store, out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Drawn from 50 rows at random." in page


def test_the_page_of_the_run_and_of_a_named_one(done: Summary, tmp_path: Path) -> None:
    path = Path(done.facts("report")["path"])
    assert path.is_file() and path.stem == done.run_id
    out = reports.write(done.store, run_id=done.run_id, out=tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    assert "not JSON &lt;b&gt;" in text and done.keys["chosen/selection"] in text
    with pytest.raises(StoreError, match="no run 'x'"):
        reports.write(done.store, run_id="x")


def test_no_text_of_the_data_stands_on_a_page_without_texts(done: Summary, tmp_path: Path) -> None:
    pages = []
    for name, flags in (("open.html", []), ("closed.html", ["--no-text"])):
        path = tmp_path / name
        given = ["--store", done.store, "--run", done.run_id, "--out", str(path), *flags]
        program = [sys.executable, "-m", "tamis", "report", *given]
        subprocess.run(program, check=True, capture_output=True, timeout=120)
        pages.append(path.read_text(encoding="utf-8"))
    for text in ("word word", ": say ", "not JSON"):
        assert text in pages[0] and text not in pages[1]
    assert "30" in pages[1] and "it was selected" in pages[1]


def test_a_run_that_only_ingests_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(rows("a", 1)[0]))
    content = {
        "store": str(tmp_path / "store"),
        "sources": {"a": {"path": str(tmp_path / "a.jsonl")}},
    }
    ctx = context(recipes.build(content, where="test"), say=said, progress=no_progress)
    text = Path(run(ctx).facts("report")["path"]).read_text(encoding="utf-8")
    assert "Nothing was selected" in text


values = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(st.tuples(values, st.booleans()), max_size=60))
def test_every_finite_value_is_in_one_bin(pairs: list[tuple[float, bool]]) -> None:
    given_values = np.array([v for v, _ in pairs], dtype=np.float64)
    kept = np.array([k for _, k in pairs], dtype=bool)
    chart = histogram("x", given_values, kept)
    finite = [(v, k) for v, k in pairs if np.isfinite(v)]
    assert sum(chart.kept) == sum(k for _, k in finite)
    assert sum(chart.dropped) == sum(not k for _, k in finite)
    assert chart.missing == len(pairs) - len(finite)
    assert len(chart.kept) == len(chart.dropped) == len(chart.edges) - 1 <= BINS
    assert all(a < b for a, b in zip(chart.edges, chart.edges[1:], strict=False))


def test_bins_count_what_lies_between_their_edges() -> None:
    rng = np.random.default_rng(0)
    given_values, kept = rng.normal(size=500), rng.random(500) < 0.3
    chart = histogram("x", given_values, kept)
    inner = range(1, len(chart.edges) - 2)
    for at in inner:
        low, high = chart.edges[at], chart.edges[at + 1]
        inside = (given_values >= low) & (given_values < high)
        assert chart.kept[at] == (inside & kept).sum()
        assert chart.dropped[at] == (inside & ~kept).sum()
    assert chart.kept_median == np.median(given_values[kept])


def test_a_long_tail_has_a_logarithmic_axis_and_equal_values_a_constant() -> None:
    given_values = np.concatenate([np.full(900, 0.01), np.geomspace(0.001, 50, 100)])
    chart = histogram("x", given_values, np.ones(1000, bool))
    ratios = [b / a for a, b in zip(chart.edges, chart.edges[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios)) and min(ratios) > 1
    at = next(i for i, edge in enumerate(chart.edges) if edge > 0.01) - 1
    assert chart.kept[at] >= 900 and chart.constant is None
    assert histogram("x", np.full(5, 3.25), np.ones(5, bool)).constant == 3.25
