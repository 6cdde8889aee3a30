"""MinHash signatures, bands and their parameters."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.numerics import minhash
from tamis.numerics.ragged import Ragged


def sets(lists: list[np.ndarray]) -> Ragged:
    indptr = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    return Ragged(indptr, np.concatenate([*lists, np.empty(0, np.uint64)]).astype(np.uint64))


def random_hashes(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 2**64, n, dtype=np.uint64)


def test_mix_is_one_to_one_and_spreads() -> None:
    mixed = minhash.mix(np.arange(100_000, dtype=np.uint64))
    assert len(np.unique(mixed)) == 100_000
    bits = np.unpackbits(mixed.view(np.uint8)).reshape(100_000, 64).mean(axis=0)
    # Each bit is a fair coin: five standard deviations.
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(100_000)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_equal_entries_estimate_the_jaccard_similarity(similarity: float) -> None:
    rng = np.random.default_rng(7)
    shared = round(200 * similarity / (1 + similarity))
    pairs = []
    for _ in range(400):
        drawn = random_hashes(rng, 200 - shared)
        pairs += [drawn[:100], drawn[100 - shared :]]
    signed = minhash.signatures(sets(pairs), 128)
    jaccard = shared / (200 - shared)
    share = (signed[::2] == signed[1::2]).mean(axis=1)
    spread = np.sqrt(jaccard * (1 - jaccard) / 128)
    assert abs(share.mean() - jaccard) < 5 * spread / np.sqrt(400)
    assert 0.9 < share.std() / spread < 1.1


@pytest.mark.parametrize("size", [3, 30, 300])
def test_pairs_meet_as_often_as_stated(size: int) -> None:
    """Whatever the size of the sets: permutations that depended on each other would meet less."""
    rng = np.random.default_rng(size)
    pairs = []
    for _ in range(1500):
        drawn = random_hashes(rng, size + size // 3)
        pairs += [drawn[:size], drawn[size // 3 :]]
    shared = size - size // 3
    bands, rows = 10, 4
    keys = minhash.band_keys(minhash.signatures(sets(pairs), 40), bands, rows)
    found = (keys[::2] == keys[1::2]).any(axis=1).mean()
    expected = float(minhash.met(shared / (size + size // 3), bands, rows))
    assert abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / 1500)


def test_signatures_of_a_row_do_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lists = [random_hashes(rng, n) for n in (5, 0, 1, 700, 40, 0)]
    alone = np.concatenate([minhash.signatures(sets([x]), 9) for x in lists])
    assert (minhash.signatures(sets(lists), 9) == alone).all()
    monkeypatch.setattr(minhash, "_BLOCK", 50)
    assert (minhash.signatures(sets(lists), 9) == alone).all()
    twice = [np.concatenate([x, x[::-1]]) for x in lists]
    assert (minhash.signatures(sets(twice), 9) == alone).all()
    # More permutations go on where fewer end.
    assert (minhash.signatures(sets(lists), 4) != 2**32 - 1).sum() == 4 * 4
    assert (alone[[1, 5]] == 2**32 - 1).all()
    assert minhash.signatures(sets([]), 9).shape == (0, 9)


def test_band_keys_are_equal_where_all_their_entries_are() -> None:
    rng = np.random.default_rng(2)
    signed = rng.integers(0, 2, (200, 13), dtype=np.uint32)
    keys = minhash.band_keys(signed, 4, 3)
    for band in range(4):
        part = signed[:, 3 * band : 3 * band + 3]
        same = (part[:, None] == part).all(axis=2)
        assert ((keys[:, band, None] == keys[:, band]) == same).all()
    # Equal entries of different bands are no meeting of their own.
    assert len(np.unique(keys[:, 0])) == 8


def test_bands_for_recall_are_the_longest() -> None:
    for threshold, recall, permutations in [(0.7, 0.95, 128), (0.8, 0.9, 64), (0.9, 0.999, 240)]:
        bands, rows = minhash.bands_for_recall(threshold, recall, permutations)
        assert bands == permutations // rows
        assert minhash.met(threshold, bands, rows) >= recall
        for longer in range(rows + 1, permutations + 1):
            assert minhash.met(threshold, permutations // longer, longer) < recall
    with pytest.raises(RecipeError, match="use more"):
        minhash.bands_for_recall(0.1, 0.99, 4)


def test_vectors_of_bands(vectors: Callable[[str], Path]) -> None:
    cases = sorted(vectors("signals").glob("lsh_params*.json"))
    assert cases
    for path in cases:
        for case in json.loads(path.read_text(encoding="utf-8")):
            found = minhash.balanced_bands(case["threshold"], case["num_perm"])
            assert found == (case["bands"], case["rows"])
            for point in case["p_at"]:
                assert abs(float(minhash.met(point["s"], *found)) - point["p"]) < 1e-9


def test_vectors_of_legacy_signatures(vectors: Callable[[str], Path]) -> None:
    folder = vectors("signals")
    cases = sorted(folder.glob("minhash_legacy_ngram*.npz"))
    assert cases
    docs = json.loads((folder / "dedup.json").read_text(encoding="utf-8"))["docs"]
    for path in cases:
        case = np.load(path)
        n = int(path.stem.rpartition("ngram")[2])
        a, b = case["perm_a"], case["perm_b"]
        drawn = minhash.legacy_permutations(len(a))
        assert (drawn[0] == a).all() and (drawn[1] == b).all()
        signed = []
        for doc in docs:
            words = re.findall(r"\w+", doc.lower())
            runs = {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
            signed.append(minhash.legacy_signature(runs if words else [], a, b))
        np.testing.assert_array_equal(signed, case["signatures"])
        estimate = (np.array(signed)[:, None] == signed).mean(axis=2)
        np.testing.assert_allclose(estimate, case["estimate"], atol=1e-9)
