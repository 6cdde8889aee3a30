"""A long curve is drawn by means of neighbours, and reaches as far as it did."""

from __future__ import annotations

import numpy as np

from tamis.pipelines.reporting.curves import POINTS, _line


def test_means_of_neighbours_keep_the_ends_of_the_axis() -> None:
    n = 3 * POINTS
    x, y = np.arange(1, n + 1), np.arange(n) * 2.0
    line = _line("gain", x, y)
    assert len(line.x) == POINTS
    assert (line.x[0], line.x[-1]) == (1, n)
    assert line.x[1] == np.mean(x[3:6])
    assert line.y == [float(np.mean(y[i : i + 3])) for i in range(0, n, 3)]
    short = _line("gain", x[:5], y[:5])
    assert short.x == [1, 2, 3, 4, 5]
