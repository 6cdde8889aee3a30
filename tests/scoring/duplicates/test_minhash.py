"""Duplicates by shared runs of words."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.scoring import shingles
from tamis.scoring.base import PoolColumns, Rows
from tamis.scoring.duplicates import pairs
from tamis.scoring.duplicates.exact import DuplicatesExact
from tamis.scoring.duplicates.minhash import DuplicatesMinhash

Pool = Callable[..., Rows]
# So many permutations that no pair of a test can be missed.
SURE = {"permutations": 512, "recall": 0.9999}


def run(rows: Rows, **options: object) -> PoolColumns:
    scorer = DuplicatesMinhash(**options)
    scorer.check()
    told: list[int] = []
    found = scorer.score_pool(rows, advance=told.append)
    assert sum(told) == rows.n
    return found


def leaders(found: PoolColumns) -> list[int]:
    """The representative of each row, itself where the row has no value."""
    group, first = found.columns["group"], found.columns["representative"]
    own = {g: i for i, (g, r) in enumerate(zip(group, first, strict=True)) if r == 1}
    return [i if np.isnan(g) else own[g] for i, g in enumerate(group)]


def sentence(rng: np.random.Generator, words: int) -> list[str]:
    return [f"w{i}" for i in rng.integers(0, 2000, words)]


def test_vectors_of_jaccard(vectors: Callable[[str], Path]) -> None:
    folder = vectors("signals")
    docs = json.loads((folder / "dedup.json").read_text(encoding="utf-8"))["docs"]
    cases = sorted(folder.glob("jaccard_ngram*.npz"))
    assert cases
    for path in cases:
        n = int(path.stem.rpartition("ngram")[2])
        sets = shingles.distinct(shingles.ngrams(shingles.tokens(docs), n))
        first, second = map(np.ravel, np.indices((len(docs), len(docs))))
        found = pairs.jaccard(sets, first, second).reshape(len(docs), len(docs))
        expected = np.load(path)["jaccard"].copy()
        empty = np.diff(sets.indptr) == 0
        # There two empty sets are alike; here they match nothing.
        expected[np.ix_(empty, empty)] = 0
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_vectors_of_groups(vectors: Callable[[str], Path], pool: Pool) -> None:
    cases = sorted(vectors("signals").glob("dedup*.json"))
    assert cases
    for path in cases:
        case = json.loads(path.read_text(encoding="utf-8"))
        for name in [key for key in case if key.startswith("ngram")]:
            sets = shingles.ngrams(shingles.tokens(case["docs"]), int(name[5:]))
            sizes = np.diff(shingles.distinct(sets).indptr)
            assert sizes.tolist() == case[name]["n_shingles"]
            for threshold, answer in case[name]["threshold"].items():
                given = {"ngram": int(name[5:]), "threshold": float(threshold), **SURE}
                found = run(pool(case["docs"]), **given)
                assert leaders(found) == answer["cluster"]
                empty = [i for i, size in enumerate(sizes) if size == 0]
                kept = np.flatnonzero(found.columns["representative"] == 1)
                assert sorted({*kept.tolist(), *empty}) == answer["keep"]
                found = run(pool(case["docs"]), grouping="greedy", **given)
                kept = np.flatnonzero(found.columns["representative"] == 1)
                assert sorted({*kept.tolist(), *empty}) == answer["greedy_keep"]
                assert [bool(r) for r in found.columns["reason"]] == [s == 0 for s in sizes]


def test_a_shared_system_prompt_makes_no_duplicates(pool: Pool) -> None:
    rng = np.random.default_rng(0)
    prompt = " ".join(sentence(rng, 400))
    rows = [
        [
            {"role": "system", "content": prompt},
            {"role": "user", "content": " ".join(sentence(rng, 20))},
            {"role": "assistant", "content": " ".join(sentence(rng, 30))},
        ]
        for _ in range(20)
    ]
    rows.append([rows[3][1], rows[3][2]])
    found = run(pool(rows), **SURE)
    assert leaders(found) == [*range(20), 3]


def test_chinese_rows_are_compared_by_character(pool: Pool) -> None:
    first = (
        "光合作用是绿色植物利用光能把二氧化碳和水转化为储存能量的有机物"
        "并释放氧气的过程它主要发生在叶绿体中"
    )
    near = first.replace("主要", "通常")
    other = (
        "机器学习是人工智能的一个分支它研究怎样让计算机从数据中学习规律"
        "而不必为每一种情况编写明确的程序代码"
    )
    found = run(pool([first, other, near + "。"]), threshold=0.7, **SURE)
    assert leaders(found) == [0, 1, 0]
    # Two characters that stand together are changed: six runs of five differ.
    n = len(first)
    both = n - 4 - 6
    assert found.columns["similarity"][2] == pytest.approx(both / (2 * (n - 4) - both))


def test_short_texts_and_texts_without_words(pool: Pool) -> None:
    found = run(pool(["", "Yes.", "?!", "yes", "Yes it", "no", "  "]), **SURE)
    assert leaders(found) == [0, 1, 2, 1, 4, 5, 6]
    assert found.columns["reason"].tolist() == [
        "no_words",
        None,
        "no_words",
        None,
        None,
        None,
        "no_words",
    ]
    assert np.isnan(found.columns["representative"][[0, 2, 6]]).all()
    assert found.columns["similarity"][3] == 1


def test_pools_without_pairs(pool: Pool) -> None:
    assert run(pool([])).columns["group"].shape == (0,)
    assert run(pool(["one"])).columns["size"].tolist() == [1]
    assert run(pool(["", ""])).columns["reason"].tolist() == ["no_words"] * 2


def noisy_copies(seed: int, families: int = 60) -> list[str]:
    """Texts of 40 words in families whose members differ by 0 to 8 words, shuffled."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(families):
        base = sentence(rng, 40)
        for _ in range(rng.integers(1, 6)):
            copy = list(base)
            for at in rng.integers(0, 40, rng.integers(0, 9)):
                copy[at] = f"w{rng.integers(2000)}"
            texts.append(" ".join(copy))
    return [texts[i] for i in rng.permutation(len(texts))]


def brute(texts: list[str], n: int) -> np.ndarray:
    sets = [{tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in map(str.split, texts)]
    return np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_groups_are_those_of_all_pairs(threshold: float, pool: Pool) -> None:
    texts = noisy_copies(3)
    jaccard = brute(texts, 3)
    near = jaccard >= threshold
    expected = list(range(len(texts)))
    for i in range(len(texts)):
        for j in np.flatnonzero(near[i]):
            a, b = sorted((expected[i], expected[j]))
            expected = [a if e == b else e for e in expected]
    found = run(pool(texts), threshold=threshold, ngram=3, **SURE)
    own = leaders(found)
    assert own == expected
    np.testing.assert_allclose(found.columns["similarity"], jaccard[np.arange(len(own)), own])
    assert found.facts["verified_pairs"] <= found.facts["candidate_pairs"]
    greedy = run(pool(texts), threshold=threshold, ngram=3, grouping="greedy", **SURE)
    own = np.array(leaders(greedy))
    kept = own == np.arange(len(own))
    assert not (near & ~np.eye(len(own), dtype=bool))[np.ix_(kept, kept)].any()
    assert near[np.arange(len(own)), own].all()
    assert kept.sum() >= len(set(expected))


def test_the_stated_recall_is_reached(pool: Pool) -> None:
    """Over pairs at and above the threshold; the default of the field would miss half of those at
    it."""
    # Equal texts are one before pairs are made.
    texts = list(dict.fromkeys(noisy_copies(5, families=150)))
    found = run(pool(texts, size=100), ngram=3, threshold=0.7)
    assert found.facts["recall_at_threshold"] >= 0.95
    wanted = (np.triu(brute(texts, 3), 1) >= 0.7).sum()
    reached = found.facts["verified_pairs"] / wanted
    assert 0.95 - 5 * np.sqrt(0.05 * 0.95 / wanted) <= reached <= 1


def test_neither_batches_nor_the_order_of_files_matter(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = noisy_copies(1)
    once = run(pool(texts, size=1000), ngram=3)
    monkeypatch.setattr(shingles, "BLOCK_CHARS", 500)
    monkeypatch.setattr(pairs, "_BLOCK", 100)
    monkeypatch.setattr(pairs, "_HELD", 10)
    again = run(pool(texts, size=3), ngram=3)
    for name, values in once.columns.items():
        assert again.columns[name].tolist() == pytest.approx(values.tolist(), nan_ok=True)
    assert once.facts == again.facts


def test_equal_texts_make_no_pairs(pool: Pool) -> None:
    found = run(pool(["The same words, over and over again."] * 200 + ["others"]))
    assert found.facts["candidate_pairs"] == 0
    assert found.columns["size"].tolist() == [200] * 200 + [1]


def test_keep_names_the_representative(pool: Pool) -> None:
    texts = ["a b c d e f g h", "a b c d e f g i", "A b c d e f g h", "x y z"]
    quality = np.array([1.0, 3.0, 2.0, np.nan])
    given = {"ngram": 2, "threshold": 0.6, **SURE}
    assert leaders(run(pool(texts), **given)) == [0, 0, 0, 3]
    rows = pool(texts, deita__quality=quality)
    for grouping in ("component", "greedy"):
        found = run(rows, keep="deita.quality", grouping=grouping, **given)
        assert leaders(found) == [1, 1, 1, 3]
    assert DuplicatesMinhash(keep="deita.quality").needs() == {"deita.quality"}


def test_a_giant_bucket_stays_linked_and_bounded() -> None:
    keys = np.zeros((500, 2), dtype=np.uint64)
    keys[:, 1] = np.arange(500)
    low, high = pairs.candidates(keys, np.arange(500))
    assert (low < high).all()
    assert len(low) <= 500 * (pairs.NEIGHBOURS + 1)
    assert set(high[low == 0]) == set(range(1, 500))
    assert all((low == i - 1)[high == i].any() for i in range(1, 500))


def test_small_buckets_give_all_pairs() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 40, (300, 3)).astype(np.uint64)
    keys[:, 2] = rng.integers(0, 2**60, 300)
    same = np.triu((keys[:, None] == keys).any(axis=2), 1)
    low, high = pairs.candidates(keys, np.arange(300))
    assert list(zip(low, high, strict=True)) == [tuple(p) for p in np.argwhere(same)]
    some = rng.permutation(300)[:100]
    low, high = pairs.candidates(keys, some)
    apart = np.triu((keys[some][:, None] == keys[some]).any(axis=2), 1)
    assert list(zip(low, high, strict=True)) == [tuple(p) for p in np.argwhere(apart)]


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0},
        {"recall": 1.0},
        {"ngram": 0},
        {"permutations": 0},
        {"threshold": 0.05, "recall": 0.999, "permutations": 8},
    ],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(RecipeError):
        DuplicatesMinhash(**options).check()


def test_without_recall_the_bands_are_balanced() -> None:
    scorer = DuplicatesMinhash(threshold=0.7, permutations=240, recall=None)
    scorer.check()
    assert scorer._bands() == (24, 10)


@pytest.mark.parametrize("grouping", ["component", "greedy"])
def test_representatives_are_no_duplicates_of_each_other(grouping: str, pool: Pool) -> None:
    texts = noisy_copies(8)
    given = {"ngram": 3, "threshold": 0.5, "grouping": grouping, **SURE}
    kept = np.flatnonzero(run(pool(texts), **given).columns["representative"] == 1)
    assert len(kept) < len(texts)
    again = run(pool([texts[i] for i in kept]), **given)
    assert again.columns["representative"].tolist() == [1] * len(kept)


def test_components_do_not_depend_on_the_order_of_rows(pool: Pool) -> None:
    texts = noisy_copies(9)
    order = np.random.default_rng(0).permutation(len(texts))
    once = np.array(leaders(run(pool(texts), ngram=3, **SURE)))
    again = np.array(leaders(run(pool([texts[i] for i in order]), ngram=3, **SURE)))
    assert ((once[order][:, None] == once[order]) == (again[:, None] == again)).all()


def test_what_is_the_same_text_is_the_same_here(pool: Pool) -> None:
    texts = noisy_copies(10)
    texts += [t.upper().replace(" ", "  ") for t in texts[::3]] + ["", "Hi", "hi "]
    exact = DuplicatesExact().score_pool(pool(texts), advance=lambda _: None)
    near = run(pool(texts))
    assert (near.columns["representative"][exact.columns["representative"] == 0] == 0).all()
    assert (exact.columns["representative"] == 0).sum() > 10
