"""Intrinsic dimension against two releases of scikit-dimension, and what must not change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import DataError
from tamis.numerics.lid import (
    distinct,
    global_dimension,
    neighbours,
    pointwise,
    two_nn,
)

Case = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def cases(vectors: Callable[[str], Path]) -> dict[str, Case]:
    """Every file of clouds."""
    found = {}
    for path in sorted(vectors("lid").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[path.stem] = dict(file)
    assert found
    return found


def whole(cases: dict[str, Case]) -> list[tuple[Case, int, float]]:
    """The clouds without copies, their number of neighbours, the share that is left out."""
    kept = [case for case in cases.values() if "mu" in case]
    assert kept
    return [(c, int(c["n_neighbors"]), float(c["discard_fraction"])) for c in kept]


def test_neighbours(cases: dict[str, Case]) -> None:
    for case, count, _ in whole(cases):
        np.testing.assert_array_equal(neighbours(case["X"], count), case["knn_idx"])


def test_fits_of_given_ratios(cases: dict[str, Case]) -> None:
    for case, _, share in whole(cases):
        for name, options in {
            "global_linear": {},
            "global_mle": {"fit": "mle"},
            "global_linear_skdim034": {"ecdf": "(i-1)/n"},
        }.items():
            found = float(two_nn(case["mu"], discard=share, **options))
            assert found == pytest.approx(float(case[name]), rel=1e-9), name
            again = global_dimension(case["X"], discard=share, **options)
            assert again == pytest.approx(found, rel=1e-9)


POINTWISE = {
    "pointwise_linear": {},
    "pointwise_mle": {"fit": "mle"},
    "pointwise_linear_centre_included": {"include_centre": True},
    "pointwise_linear_skdim034": {"ecdf": "(i-1)/n"},
}


@pytest.mark.parametrize("name", POINTWISE)
def test_around_each_point(cases: dict[str, Case], name: str) -> None:
    for case, count, share in whole(cases):
        found = pointwise(case["X"], count, discard=share, **POINTWISE[name])
        np.testing.assert_allclose(found, case[name], rtol=1e-9)
        if name == "pointwise_linear":
            assert found.mean() == pytest.approx(float(case["mean_lid"]), rel=1e-9)
            assert found.std() == pytest.approx(float(case["std_lid_ddof0"]), rel=1e-9)


def test_points_in_float32(cases: dict[str, Case]) -> None:
    import torch

    for case, count, share in whole(cases):
        found = pointwise(torch.from_numpy(case["X"]).float(), count, discard=share)
        rounded = pointwise(case["X"].astype(np.float32).astype(np.float64), count, discard=share)
        np.testing.assert_allclose(found, rounded, rtol=1e-9)
        assert found.mean() == pytest.approx(float(case["mean_lid"]), rel=1e-3)


def test_copies(cases: dict[str, Case]) -> None:
    found = [case for case in cases.values() if "keep_idx_after_dedup" in case]
    assert found
    for case in found:
        x, count = case["X"], int(case["n_neighbors"])
        share = {"discard": float(case["discard_fraction"])}
        keep = distinct(x)
        np.testing.assert_array_equal(keep, case["keep_idx_after_dedup"])
        dropped = global_dimension(x, **share)
        assert dropped == pytest.approx(float(case["global_linear_drop_zero"]), rel=1e-9)
        left = global_dimension(x[keep], **share)
        assert left == pytest.approx(float(case["global_linear_after_dedup"]), rel=1e-9)
        each = pointwise(x[keep], count, **share)
        np.testing.assert_allclose(each, case["pointwise_linear_after_dedup"], rtol=1e-9)


@pytest.mark.parametrize("far", [0.0, 1e3, 1e5])
def test_moving_turning_and_scaling_change_nothing(far: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((150, 6))
    turn, _ = np.linalg.qr(rng.standard_normal((9, 9)))
    wide = np.concatenate([x, np.zeros((150, 3))], axis=1) @ turn * 3 + far
    want = pointwise(x, 40)
    np.testing.assert_allclose(pointwise(wide, 40), want, rtol=1e-5)
    order = rng.permutation(150)
    np.testing.assert_allclose(pointwise(x[order], 40), want[order], rtol=1e-9)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).standard_normal((120, 5))
    want = pointwise(x, 30)
    monkeypatch.setattr("tamis.numerics.lid.rows_per_block", lambda columns: 7)
    np.testing.assert_allclose(pointwise(x, 30), want, rtol=1e-12)
    np.testing.assert_array_equal(neighbours(x, 4)[:, :2], neighbours(x, 2))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_a_cube_has_its_dimension(d: int) -> None:
    x = np.random.default_rng(3).random((1500, d))
    assert pointwise(np.pad(x, ((0, 0), (0, 3))), 128).mean() == pytest.approx(d, rel=0.15)


def test_the_older_distribution_gives_less() -> None:
    x = np.random.default_rng(4).standard_normal((100, 7))
    assert (pointwise(x, 20, ecdf="(i-1)/n") < pointwise(x, 20)).all()


def test_more_neighbours_than_points_and_clouds_without_dimension() -> None:
    x = np.random.default_rng(5).standard_normal((40, 3))
    np.testing.assert_allclose(pointwise(x, 1000), pointwise(x, 39))
    assert np.isnan(pointwise(np.repeat(x[:10], 5, axis=0), 10)).all()
    assert np.isnan(two_nn(np.ones(50)))
    assert np.isnan(two_nn(np.array([2.0, np.nan, np.nan])))
    with pytest.raises(DataError, match="19 points"):
        pointwise(x[:19], 5)
    with pytest.raises(DataError, match="discard=0"):
        two_nn(np.arange(2.0, 9.0), discard=0)
