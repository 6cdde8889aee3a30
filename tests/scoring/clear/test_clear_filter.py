"""The median rule as a column of the pool."""

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.scoring import registry
from tamis.scoring.base import Rows


def build(**options):
    return registry.build("clear_filter", model=None, options=options, device="cpu")


def keep(values, **options):
    scorer = build(**options)
    column = np.asarray(values, dtype=float)
    told = []
    found = scorer.score_pool(
        Rows(len(column), {scorer.column: column}, lambda: iter(())), advance=told.append
    )
    assert sum(told) == len(column) and set(found.columns) == set(scorer.fields)
    return found


def test_rows_above_the_median_stay():
    found = keep([0.1, 0.9, np.nan, 0.4, 0.8])
    assert found.columns["keep"].tolist() == [False, True, False, False, True]
    assert found.facts == {"threshold": pytest.approx(0.6), "kept": 2, "ties": 0}
    np.testing.assert_allclose(found.columns["margin"], [-0.5, 0.3, np.nan, -0.2, 0.2])
    assert found.columns["reason"].tolist() == [None, None, "no_value", None, None]


def test_ties_are_counted_and_told():
    assert keep([1, 1, 1, 2]).columns["keep"].tolist() == [False, False, False, True]
    found = keep([1, 1, 1, 2], ties="keep")
    assert found.columns["keep"].all() and "3 rows lie on" in found.facts["warning"]


def test_other_thresholds_and_columns():
    values = np.arange(10.0)
    assert keep(values, threshold=6.5).columns["keep"].sum() == 3
    assert keep(values, quantile=0.9).columns["keep"].tolist() == [False] * 9 + [True]
    assert build(column="ifd.ppl_ratio").needs() == {"ifd.ppl_ratio"}
    with pytest.raises(RecipeError, match="without a threshold"):
        build(threshold=0.5, quantile=0.5)


def test_medians_of_sources_by_themselves():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random(30), 5 + rng.random(41), rng.random(3), [np.nan]])
    source = np.array(["a"] * 30 + ["b"] * 41 + ["c"] * 3 + ["a"], dtype=object)
    scorer = build(within=["source"])
    assert scorer.needs() == {"clear.confidence", "source"}
    rows = Rows(75, {"clear.confidence": values, "source": source}, lambda: iter(()))
    found = scorer.score_pool(rows, advance=lambda n: None)
    keep = found.columns["keep"]
    assert keep[:30].tolist() == (values[:30] > np.median(values[:30])).tolist()
    assert keep[30:71].tolist() == (values[30:71] > np.median(values[30:71])).tolist()
    # Three rows are too few for a median of their own: that of all.
    assert keep[71:74].tolist() == (values[71:74] > np.nanmedian(values)).tolist()
    assert not keep[74] and np.isnan(found.columns["margin"][74])
    assert " to " in found.facts["threshold"]
    with pytest.raises(RecipeError, match="not a number"):
        build(within=["source"], threshold=0.5)


def test_a_pool_without_values_keeps_nothing():
    for options in ({}, {"quantile": 0.5}):
        assert not keep([np.nan, np.nan], **options).columns["keep"].any()
