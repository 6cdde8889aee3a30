"""Methods by name, options by type, plain words for each."""

import subprocess
import sys

import numpy as np
import pytest

import tamis.selectors as selectors
from tamis.errors import DataError, RecipeError
from tamis.selectors import Pool, build, describe, get, names


def test_nearest_name():
    with pytest.raises(RecipeError, match="did you mean deita"):
        get("dieta")
    with pytest.raises(RecipeError, match="there are: random, stratified, top"):
        build("zzz")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tua": 0.9}, "no option 'tua'; did you mean tau"),
        ({"tau": "high"}, r"deita\.tau must be a number or 'auto', got 'high'"),
        ({"tau": True}, "must be a number or 'auto'"),
        ({"scores": 3}, "must be a list of a text"),
        ({"scores": ["a", 3]}, "must be a list of a text"),
        ({"zero_vectors": 1.5}, "must be a whole number"),
        ({"zero_vectors": True}, "must be a whole number"),
        ({"turns": "median"}, "must be 'sum' or 'mean' or 'max'"),
        ({"tau": 7}, "between -1 and 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(RecipeError, match=message):
        build("deita", options)


def test_options_take_their_types():
    built = build("deita", {"scores": ["a", "b"], "tau": 1, "compat_block": None})
    assert built.scores == ("a", "b") and built.tau == 1.0 and isinstance(built.tau, float)
    assert build("deita", {"scores": "a"}).scores == ("a",)
    mixed = build("quota", {"by": "source", "weights": {"x": 1}, "floors": {"x": 2}})
    assert mixed.weights == {"x": 1.0} and mixed.by == ("source",)
    with pytest.raises(RecipeError, match="mapping to a whole number"):
        build("quota", {"by": "source", "floors": {"x": 0.5}})
    with pytest.raises(RecipeError, match="top needs the option column"):
        build("top")


def test_every_method_is_described_and_importable_by_class():
    for name in names():
        told = describe(name)
        assert set(told) == {"sentence", "needs", "cost", "avoid"} and all(told.values())
        assert get(name).name == name
        assert getattr(selectors, get(name).__name__) is get(name)
        assert get(name).__module__ == f"tamis.selectors.{name}"
    with pytest.raises(AttributeError):
        selectors.Nothing  # noqa: B018


def test_import_is_light():
    code = (
        "import sys, tamis.selectors as s; [s.get(n) for n in s.names()]; "
        "heavy = {'torch', 'sklearn', 'scipy', 'faiss', 'pyarrow'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ids():
    pool = Pool(4, {"id": np.array(list("abcd"), dtype=object)})
    found = build("ids", {"ids": ["d", "a", "c"]}).select(pool, 2, rng=np.random.default_rng(0))
    assert found.index.tolist() == [3, 0]
    assert found.rows["reason"].tolist() == ["selected", "not_listed", "over_budget", "selected"]
    with pytest.raises(DataError, match=r"2 of 3 ids .* first is 'x'"):
        build("ids", {"ids": ["a", "x", "y"]}).select(pool, 2, rng=np.random.default_rng(0))
    with pytest.raises(RecipeError, match="'a' is given more than once"):
        build("ids", {"ids": ["a", "b", "a"]})


def test_top_and_random():
    value = np.array([3.0, 1.0, 3.0, 2.0])
    pool = Pool(4, {"s": value})
    rng = np.random.default_rng(0)
    found = build("top", {"column": "s"}).select(pool, 3, rng=rng)
    assert found.index.tolist() == [0, 2, 3] and found.gain.tolist() == [3, 3, 2]
    assert found.facts == {"cut": 2.0}
    small = build("top", {"column": "s", "largest": False}).select(pool, 2, rng=rng)
    assert small.index.tolist() == [1, 3]
    hits = np.zeros(5)
    for seed in range(3000):
        picked = build("random").select(Pool(5, {}), 2, rng=np.random.default_rng(seed)).index
        hits[picked] += 1
    assert (np.abs(hits - 1200) < 5 * np.sqrt(3000 * 0.4 * 0.6)).all()
