"""The nearest centre is the exact one, whatever the block size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.numerics.blocked import nearest, unit_rows


def exact_nearest(x, centres):
    gap = x.astype(np.float64)[:, None, :] - centres.astype(np.float64)[None]
    square = np.einsum("ijk,ijk->ij", gap, gap)
    return square.argmin(axis=1), square.min(axis=1)


@pytest.mark.parametrize("block", [None, 1, 7, 64])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_nearest_is_exact(block, scale):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 17)) * scale).astype(np.float32)
    centres = x[rng.choice(200, 12)]  # some centres twice: ties go to the lower one
    index, distance = nearest(x, centres, block=block)
    want, gap = exact_nearest(x, centres)
    assert index.tolist() == want.tolist()
    np.testing.assert_allclose(distance, gap, rtol=1e-9, atol=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_ties_on_a_grid_go_to_the_lowest(seed, width, m):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(30, width)).astype(np.float32)
    centres = rng.integers(-2, 3, size=(m, width)).astype(np.float32)
    assert nearest(x, centres)[0].tolist() == exact_nearest(x, centres)[0].tolist()


def test_unit_rows_of_extreme_scales():
    x = np.array([[3e-30, 4e-30], [0, 0], [3e30, 4e30], [-1, 0]], dtype=np.float32)
    want = [[0.6, 0.8], [0, 0], [0.6, 0.8], [-1, 0]]
    np.testing.assert_allclose(unit_rows(x), want, atol=1e-7)


def test_near_ties_that_single_precision_cannot_tell():
    # Far from the origin float32 products round by more than the centres differ.
    rng = np.random.default_rng(4)
    x = (300 + rng.normal(size=(300, 6))).astype(np.float32)
    centres = (300 + rng.normal(size=(40, 6))).astype(np.float32)
    rough = (x @ centres.T - 0.5 * (centres * centres).sum(axis=1)).argmax(axis=1)
    want = exact_nearest(x, centres)[0]
    assert (rough != want).any()
    assert nearest(x, centres)[0].tolist() == want.tolist()
