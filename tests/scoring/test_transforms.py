"""Transforms of columns: ranks, distances, sums, and scores without confounders."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import DataError, RecipeError
from tamis.numerics.ragged import Ragged
from tamis.scoring import registry
from tamis.scoring.base import Columns, PoolColumns, Rows


def build(kind: str, **options: Any) -> Any:
    return registry.build(kind, model=None, options=options, device="cpu")


def run(kind: str, columns: dict[str, Any], /, **options: Any) -> PoolColumns:
    (first, *_) = columns.values()
    rows = Rows(len(first), columns, lambda: iter(()))
    scorer = build(kind, **options)
    assert scorer.needs() <= set(columns)
    found = scorer.score_pool(rows, advance=lambda n: None)
    assert set(found.columns) == set(scorer.fields)
    return found


def score(kind: str, columns: dict[str, Any], /, **options: Any) -> Columns:
    return run(kind, columns, **options).columns


def texts(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


def test_rank_is_the_share_at_or_below_and_none_stays_none() -> None:
    found = score("rank", {"x": np.array([3.0, np.nan, 1.0, 3.0, -np.inf])}, column="x")
    np.testing.assert_array_equal(found["value"], [0.875, np.nan, 0.5, 0.875, 0.25])
    assert found["reason"].tolist() == [None, "no_value", None, None, None]


def test_lowest_share_by_rank_is_what_perplexity_filters_keep(vectors) -> None:
    paths = sorted(vectors("signals").glob("perplexity*.npz"))
    assert paths
    for path in paths:
        z = np.load(path)
        rank = score("rank", {"x": z["ppl"]}, column="x")["value"]
        assert set(np.flatnonzero(rank <= 0.4)) == set(z["keep_lowest_idx"].tolist())
        # A smaller share keeps a subset.
        assert set(np.flatnonzero(rank <= 0.2)) <= set(np.flatnonzero(rank <= 0.4))


def test_a_rank_may_span_the_grades_of_a_judge() -> None:
    x = np.array([3.0, np.nan, 1.0, 3.0, 8.0])
    found = score("rank", {"x": x}, column="x", span=[1, 6])
    # v = 1 + 5 r / (n - 1), ranks from 0, equal ones at their mean.
    np.testing.assert_allclose(found["value"], [3.5, np.nan, 1, 3.5, 6])
    assert score("rank", {"x": x[:1]}, column="x", span=[1, 6])["value"].tolist() == [3.5]
    with pytest.raises(RecipeError, match="rising"):
        build("rank", column="x", span=[6, 1])


def test_rank_within_sources_and_small_ones_among_all() -> None:
    x = np.arange(50.0)
    source = texts(*["a"] * 25, *["b"] * 22, *["c"] * 2, None)
    found = run("rank", {"x": x, "source": source}, column="x", within=["source"])
    value = found.columns["value"]
    np.testing.assert_allclose(value[:25], np.arange(1, 26) / 25)
    np.testing.assert_allclose(value[25:47], np.arange(1, 23) / 22)
    np.testing.assert_allclose(value[47:], np.arange(48, 51) / 50)
    assert found.facts == {"rows_in_coarser_cells": 3}
    # Rows without a value fill no cell.
    x[:6] = np.nan
    value = score("rank", {"x": x, "source": source}, column="x", within=["source"])["value"]
    np.testing.assert_allclose(value[6:25], np.arange(1, 20) / 44)


def test_the_last_named_is_dropped_first() -> None:
    x = np.arange(60.0)
    source = texts(*["a"] * 30, *["b"] * 30)
    lang = texts(*["en"] * 25, *["de"] * 5, *["en"] * 30)
    columns = {"x": x, "source": source, "lang": lang}
    value = score("rank", columns, column="x", within=["source", "lang"])["value"]
    np.testing.assert_allclose(value[25:30], np.arange(26, 31) / 30)
    other = score("rank", columns, column="x", within=["lang", "source"])["value"]
    np.testing.assert_allclose(other[25:30], np.arange(26, 31) / 60)


def test_robust_z_of_normal_values_and_wild_ones() -> None:
    x = np.random.default_rng(0).normal(5, 3, size=20_001)
    x[0] = 1e12
    found = score("robust_z", {"x": x}, column="x")["value"]
    np.testing.assert_allclose(found[1:], (x[1:] - 5) / 3, atol=0.1)
    by_hand = np.median(np.abs(x - np.median(x))) / 0.6744897501960817
    np.testing.assert_allclose(found, (x - np.median(x)) / by_hand, rtol=1e-12)


def test_robust_z_without_spread_or_value_has_a_reason() -> None:
    x = np.array([1.0, 1, 1, 5, np.nan])
    found = score("robust_z", {"x": x}, column="x")
    assert np.isnan(found["value"]).all()
    assert found["reason"].tolist() == ["no_spread"] * 4 + ["no_value"]
    with pytest.raises(DataError, match="x is infinite in 1 rows"):
        score("robust_z", {"x": np.array([1.0, np.inf])}, column="x")


def test_robust_z_within_groups() -> None:
    rng = np.random.default_rng(1)
    source = np.array(["a", "b"], dtype=object)[np.arange(80) % 2]
    x = rng.normal(size=80) * np.where(source == "a", 1, 50) + np.where(source == "a", 0, 7)
    found = score("robust_z", {"x": x, "s": source}, column="x", within=["s"])["value"]
    for name in ("a", "b"):
        alone = score("robust_z", {"x": x[source == name]}, column="x")["value"]
        np.testing.assert_allclose(found[source == name], alone)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 100)), min_size=1, max_size=20))
def test_combine_by_hand(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(c) for c in zip(*pairs, strict=True))
    total = score("combine", {"a": a, "b": b}, columns={"a": 2.0, "b": -0.5})["value"]
    np.testing.assert_allclose(total, [2 * x - 0.5 * y for x, y in pairs], atol=1e-9)
    options = {"columns": {"b": -1, "a": 2}, "how": "product"}
    product = score("combine", {"a": a, "b": b}, **options)["value"]
    np.testing.assert_allclose(product, [x * x / y for x, y in pairs], rtol=1e-12)


def test_combine_says_which_column_is_at_fault() -> None:
    a, b = np.array([1.0, np.nan, -1, 0, 1]), np.array([1.0, -2, 2, 0, np.nan])
    found = score("combine", {"a": a, "b": b}, columns={"a": 1, "b": -1}, how="product")
    assert found["value"].tolist()[0] == 1 and np.isnan(found["value"][1:]).all()
    assert found["reason"].tolist() == [
        None,
        "no_value: a",
        "negative: a",
        "infinite",
        "no_value: b",
    ]
    total = score("combine", {"a": a, "b": b}, columns={"a": 1, "b": 1})
    assert total["reason"].tolist() == [None, "no_value: a", None, None, "no_value: b"]
    with pytest.raises(RecipeError, match="at least one column"):
        build("combine", columns={})
    with pytest.raises(DataError, match="t holds texts"):
        score("combine", {"t": texts("a")}, columns={"t": 1})
    lists = Ragged(np.array([0, 1]), np.array([1.0]))
    with pytest.raises(DataError, match="several values a row"):
        score("combine", {"t": lists}, columns={"t": 1})


def stored(vectors, field: str) -> list[dict[str, Any]]:
    found = [dict(np.load(p)) for p in sorted(vectors("deconfound").glob("*.npz"))]
    kept = [z for z in found if field in z]
    assert kept
    return kept


def confounders(z: dict[str, Any]) -> dict[str, Any]:
    """Columns as a pool would have them: three numbers, a category and a group by name."""
    numbers = {f"c{k}": z["confounders"][:, k] for k in range(z["confounders"].shape[1])}
    return {
        **numbers,
        "y": z["y"],
        "category": texts(*(f"level {c}" for c in z["category"])),
        "group": texts(*(f"author {g}" for g in z["group"])),
    }


def test_stored_adjustments_from_columns(vectors) -> None:
    for z in stored(vectors, "category"):
        columns = confounders(z)
        by = [*(name for name in columns if name.startswith("c"))]
        ols = score("deconfound", columns, column="y", by=by)
        np.testing.assert_allclose(ols["value"], z["ols_adjusted"], atol=1e-8)
        np.testing.assert_allclose(ols["residual"], z["ols_residual"], atol=1e-8)
        options = {"column": "y", "by": by, "group": ["group"]}
        fixed = score("deconfound", columns, method="fixed_effects", **options)
        np.testing.assert_allclose(fixed["value"], z["fe_adjusted"], atol=1e-8)
        mixed = run("deconfound", columns, method="random_effects", **options)
        np.testing.assert_allclose(mixed.columns["residual"], z["re_residual"], atol=1e-5)
        assert mixed.facts["between"] == pytest.approx(float(z["re_sigma_u2"]), rel=1e-5)
        options |= {"method": "random_effects", "output": "group_only"}
        only = score("deconfound", columns, **options)["value"]
        np.testing.assert_allclose(only, z["re_adjusted_group_only"], atol=1e-5)
        means = score("deconfound", columns, column="y", method="fixed_effects", group=["group"])
        np.testing.assert_allclose(means["residual"], z["group_mean_residual"], atol=1e-8)


@pytest.mark.parametrize("method", ["ols", "fixed_effects", "random_effects", "crossfit"])
def test_adjusting_for_a_nuisance_comes_nearer_to_the_quality_behind(method: str) -> None:
    rng = np.random.default_rng(4)
    quality, position, noise = rng.normal(size=(3, 600))
    source = rng.integers(30, size=600)
    y = quality + 2 * position + rng.normal(size=30)[source] * 2 + 0.3 * noise
    columns = {"y": y, "p": position, "s": texts(*(f"s{k}" for k in source))}
    grouped = method.endswith("effects")
    by = {"by": ["p"], "group": ["s"]} if grouped else {"by": ["p", "s"]}
    found = score("deconfound", columns, column="y", method=method, **by)["value"]
    assert spearman(found, quality) > 0.9 > 0.5 > spearman(y, quality)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_stored_instruments_from_columns(vectors) -> None:
    for z in stored(vectors, "instrument"):
        columns = {name: z[name] for name in ("y", "popularity", "instrument")}
        options = {"column": "y", "method": "iv", "endogenous": "popularity"}
        found = run("deconfound", columns, instrument=["instrument"], **options)
        np.testing.assert_allclose(found.columns["value"], z["adjusted_2sls"], atol=1e-8)
        assert found.facts["first_stage_f"] == pytest.approx(float(z["first_stage_F"]))
        truth = z["true_quality"]
        plain = score("deconfound", columns, column="y", by=["popularity"])["value"]
        assert spearman(plain, truth) < spearman(z["y"], truth)
        assert spearman(found.columns["value"], truth) > spearman(z["y"], truth)


def test_stored_weights_and_gaps_from_columns(vectors) -> None:
    for z in stored(vectors, "weight"):
        columns = {f"x{k}": z["design"][:, k] for k in range(z["design"].shape[1])}
        by = list(columns)
        columns |= {"y": z["y"], "w": z["weight"]}
        found = score("deconfound", columns, column="y", by=by, weight="w")
        np.testing.assert_allclose(found["residual"], z["residual"], atol=1e-8)
    for z in stored(vectors, "y_full"):
        columns = {f"x{k}": z["confounders"][:, k] for k in range(3)} | {"y": z["y"]}
        found = score("deconfound", columns, column="y", by=["x0", "x1", "x2"])
        np.testing.assert_allclose(found["residual"], z["residual"], atol=1e-8)
        assert (found["reason"] == "no_value").tolist() == np.isnan(z["y"]).tolist()


def pool(n: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    source = texts(*(f"s{k}" for k in rng.integers(4, size=n)))
    days = rng.integers(1000, size=n)
    date = texts(*(datetime.datetime(2020, 1, 1) + datetime.timedelta(int(d)) for d in days))
    x = rng.normal(size=n)
    y = x + days / 100 + (source == "s1") * 3 + rng.normal(size=n)
    x[:5] = np.nan
    return {"y": y, "x": x, "source": source, "date": date, "group": source}


METHODS = [
    {"by": ["x", "source", "date"]},
    {"by": ["x", "date"], "group": ["source"], "method": "fixed_effects"},
    {"by": ["x"], "group": ["source"], "method": "random_effects"},
    {"by": ["x", "date"], "method": "crossfit"},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda o: o.get("method", "ols"))
def test_a_missing_score_changes_no_other_row(options: dict[str, Any]) -> None:
    columns = pool()
    gone = np.zeros(200, dtype=bool)
    gone[[7, 70]] = True
    rest = {name: values[~gone] for name, values in columns.items()}
    alone = score("deconfound", rest, column="y", **options)["value"]
    columns["y"] = np.where(gone, np.nan, columns["y"])
    found = score("deconfound", columns, column="y", **options)
    np.testing.assert_allclose(found["value"][~gone], alone, atol=1e-9)
    assert np.isnan(found["fit"][gone]).all()
    # The unit and, but for crossfit, the mean stay.
    if options.get("method") != "crossfit":
        assert alone.mean() == pytest.approx(rest["y"].mean())


@pytest.mark.parametrize("options", METHODS[:3], ids=lambda o: o.get("method", "ols"))
def test_order_of_rows_does_not_matter(options: dict[str, Any]) -> None:
    columns = pool()
    order = np.random.default_rng(3).permutation(200)
    found = score("deconfound", columns, column="y", **options)["value"]
    mixed = {name: values[order] for name, values in columns.items()}
    again = score("deconfound", mixed, column="y", **options)["value"]
    np.testing.assert_allclose(again, found[order], atol=1e-8)


def test_a_date_takes_its_trend_and_a_rare_level_is_other() -> None:
    columns = pool()
    days = np.array(
        [(d - datetime.datetime(2020, 1, 1)).days for d in columns["date"]], dtype=float
    )
    found = score("deconfound", columns, column="y", by=["date"])["residual"]
    assert abs(found @ (days - days.mean())) < 1e-6 * len(days)
    monday = np.array([d.weekday() == 0 for d in columns["date"]])
    assert abs(found[monday].mean()) < 1e-9
    level = texts(*["rare"] * 2, *["odd"] * 2, *["b"] * 98, *["a"] * 98)
    found = score("deconfound", {**columns, "l": level}, column="y", by=["l"])["residual"]
    for rows in (slice(0, 4), slice(4, 102), slice(102, 200)):
        assert abs(found[rows].mean()) < 1e-9
    assert abs(found[:2].mean()) > 1e-3


def test_rows_of_weight_zero_are_adjusted_and_not_fitted() -> None:
    columns = pool()
    w = np.ones(200)
    w[:20] = 0
    for options in METHODS[:2]:
        given = {k: v for k, v in columns.items()}
        before = score("deconfound", {**given, "w": w}, column="y", weight="w", **options)
        given["y"] = columns["y"] + np.where(w == 0, 50.0, 0)
        after = score("deconfound", {**given, "w": w}, column="y", weight="w", **options)
        np.testing.assert_allclose(after["fit"], before["fit"], atol=1e-8)
        assert np.isfinite(after["value"]).all()
        assert after["value"][:20].mean() > before["value"][:20].mean() + 40


def test_a_group_that_was_not_fitted_is_an_average_one() -> None:
    columns = pool()
    w = (columns["group"] != "s1").astype(float)
    options = {"column": "y", "method": "fixed_effects", "group": ["group"], "weight": "w"}
    fit = score("deconfound", {**columns, "w": w}, **options)["fit"]
    np.testing.assert_allclose(fit[w == 0], columns["y"][w == 1].mean())
    assert len(set(fit[w == 1].round(9))) == 3


def test_rows_without_a_confounder_are_a_kind_of_their_own() -> None:
    columns = pool()
    columns["y"][:5] += 100
    found = score("deconfound", columns, column="y", by=["x"])["residual"]
    assert abs(found[:5].mean()) < 1e-9 and abs(found[5:].mean()) < 1e-9


def test_outputs_and_constant_scores() -> None:
    columns = pool()
    z = score("deconfound", columns, column="y", by=["x"], output="zscore")
    assert z["value"].std() == pytest.approx(1)
    columns["y"] = np.full(200, 2.5)
    flat = score("deconfound", columns, column="y", by=["x", "source"], output="zscore")
    np.testing.assert_allclose(flat["value"], 0, atol=1e-12)
    np.testing.assert_allclose(flat["fit"], 2.5)


def test_crossfit_keeps_groups_together() -> None:
    columns = pool()
    changed = columns | {"y": columns["y"] + (columns["group"] == "s2") * 100.0}
    options = {"column": "y", "by": ["x"], "method": "crossfit", "group": ["group"]}
    before, after = (score("deconfound", c, **options)["fit"] for c in (columns, changed))
    own = columns["group"] == "s2"
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()


def test_an_instrument_that_moves_nothing_is_told_and_not_used() -> None:
    rng = np.random.default_rng(0)
    y, p, z = rng.normal(size=(3, 400))
    options = {"column": "y", "method": "iv", "endogenous": "p", "instrument": ["z"]}
    z -= (
        np.column_stack([np.ones(400), p])
        @ np.linalg.lstsq(np.column_stack([np.ones(400), p]), z, rcond=None)[0]
    )
    found = run("deconfound", {"y": y, "p": p, "z": z}, **options)
    assert "NOT adjusted" in found.facts["warning"]
    np.testing.assert_allclose(found.columns["value"], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "ols needs by"),
        ({"method": "fixed_effects"}, "fixed_effects needs group"),
        ({"by": ["x"], "group": ["source"]}, "at most 0 columns in group"),
        ({"method": "iv", "endogenous": "x"}, "iv needs endogenous and instrument"),
        ({"by": ["x"], "instrument": ["z"]}, "other methods neither"),
        ({"by": ["x"], "method": "crossfit", "weight": "w"}, "crossfit takes no weight"),
        ({"by": ["x"], "output": "group_only"}, "group_only is for random_effects"),
        ({"by": ["x"], "method": "ridge"}, "method='ridge'"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build("deconfound", column="y", **options)


def test_wrong_columns_are_told() -> None:
    columns = pool()
    columns["x"][9] = np.inf
    with pytest.raises(DataError, match="x is infinite in 1 rows"):
        score("deconfound", columns, column="y", by=["x"])
    many = texts(*(f"{k // 5}" for k in range(1500)))
    with pytest.raises(DataError, match="300 levels, more than 200; name it in group"):
        score("deconfound", {"y": np.arange(1500.0), "m": many}, column="y", by=["m"])
    with pytest.raises(DataError, match="no row has a value"):
        score("deconfound", {"y": np.full(3, np.nan), "x": np.arange(3.0)}, column="y", by=["x"])
    with pytest.raises(DataError, match="negative weights"):
        w = {"y": np.arange(3.0), "x": np.arange(3.0), "w": np.array([1.0, -1, 1])}
        score("deconfound", w, column="y", by=["x"], weight="w")
