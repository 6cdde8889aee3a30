"""MIDDO's signs: stored cases, what must hold of any, and the questions to a server."""

from __future__ import annotations

import json
import statistics
from typing import Any

import httpx
import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.numerics import cutoff
from tamis.numerics.logits import label_scores
from tamis.recipe import Model
from tamis.scoring import registry
from tamis.scoring.base import PoolColumns, Rows
from tamis.scoring.middo.quality import ASPECTS, PARTS, rating


def run(columns: dict[str, Any], /, **options: Any) -> PoolColumns:
    (first, *_) = columns.values()
    scorer = registry.build("middo", model=None, options=options, device="cpu")
    rows = Rows(len(first), columns, lambda: iter(()))
    return scorer.score_pool(rows, advance=lambda n: None)


def cases(vectors: Any, pattern: str, first: str) -> list[tuple[dict[str, Any], str]]:
    """The arrays of every case: names are `<letter><number>_<field>`."""
    found = []
    for path in sorted(vectors("middo").glob(pattern)):
        z = dict(np.load(path))
        heads = sorted({name.partition("_")[0] for name in z})
        found += [(z, head) for head in heads if head.startswith(first)]
    assert found
    return found


def test_stored_hard_rows(vectors: Any) -> None:
    for z, case in cases(vectors, "complexity*.npz", "x"):
        pre, current = z[f"{case}_pre"], z[f"{case}_cur"]
        found = run({"p": pre, "c": current}, pre="p", current="c")
        hard = found.columns["hard"]
        if np.isfinite(pre).all() and np.isfinite(current).all():
            assert np.flatnonzero(hard == 1).tolist() == z[f"{case}_hard_idx0"].tolist()
            told = [found.facts["pre_threshold"], found.facts["current_threshold"]]
            np.testing.assert_allclose(told, z[f"{case}_thresholds"], rtol=1e-12)
        else:
            # One row without a loss takes nothing from the others.
            gone = ~(np.isfinite(pre) & np.isfinite(current))
            assert np.isnan(hard).tolist() == gone.tolist()
            rest = run({"p": pre[~gone], "c": current[~gone]}, pre="p", current="c")
            assert rest.columns["hard"].tolist() == hard[~gone].tolist()


def test_stored_sparse_rows(vectors: Any) -> None:
    for z, case in cases(vectors, "diversity*.npz", "d"):
        options = {"m_sparse": float(z[f"{case}_m"]), "neighbours": int(z[f"{case}_k"])}
        found = run({"e": z[f"{case}_emb"]}, embedding="e", **options)
        np.testing.assert_allclose(
            found.columns["similarity"], z[f"{case}_avg_topk_sim"], atol=1e-5
        )
        sparse = np.flatnonzero(found.columns["sparse"] == 1)
        assert sparse.tolist() == sorted(z[f"{case}_sparse_idx"].tolist())
        assert found.facts["sparse_threshold"] == pytest.approx(
            float(z[f"{case}_threshold"]), abs=1e-5
        )


def test_stored_marks_and_poor_rows(vectors: Any) -> None:
    paths = sorted(vectors("middo").glob("quality*.json"))
    assert paths
    for path in paths:
        z = json.loads(path.read_text(encoding="utf-8"))
        for case in z["parse_cases"]:
            # Where the authors' code gives 0 for want of a number, there is no mark here.
            assert np.nan_to_num(rating(case["text"])) == case["score"], case["text"]
        marks = {
            name: np.nan_to_num([rating(text) for text in texts])
            for name, texts in z["judge_texts"].items()
        }
        for name, parsed in z["parsed"].items():
            assert marks[name].tolist() == [float(p) for p in parsed]
        value = np.mean(list(marks.values()), axis=0)
        np.testing.assert_allclose(value, z["average"], atol=1e-12)
        for result in z["results"]:
            found = run({"q": np.array(z["average"])}, quality="q", m_low=float(result["m"]))
            assert np.flatnonzero(found.columns["low"] == 1).tolist() == sorted(result["low_idx"])
            assert found.facts["low"] == result["n_low"]


def test_stored_losses(vectors: Any) -> None:
    """The loss that `pre` and `current` hold: the mean over labels, each predicted by the row
    before it."""
    for z, case in cases(vectors, "loss*.npz", "l"):
        logits, labels = z[f"{case}_logits"][:, :-1], z[f"{case}_labels"][:, 1:]
        counts = labels != -100
        nll = -label_scores(logits, np.where(counts, labels, 0)).logprob
        total = np.where(counts, nll, 0).sum(axis=1)
        n = np.where(counts.any(axis=1), counts.sum(axis=1), np.nan)
        np.testing.assert_allclose(total / n, z[f"{case}_loss"], rtol=1e-5)


def test_stored_rows_that_remain(vectors: Any) -> None:
    """Rows in neither set remain, by their number and not by their text."""
    paths = sorted(vectors("middo").glob("merge*.json"))
    assert paths
    for path in paths:
        z = json.loads(path.read_text(encoding="utf-8"))
        n = len(z["dataset"])
        loss, quality = np.zeros(n), np.zeros(n)
        loss[z["complexity_idx"]], quality[z["quality_idx"]] = 1, -1
        columns = {"loss": loss, "quality": quality}
        found = run(columns, pre="loss", current="loss", quality="quality").columns
        marked = (found["hard"] == 1) | (found["low"] == 1)
        assert np.flatnonzero(~marked).tolist() == z["by_row_identity_remaining_idx"]


def test_marks_do_not_hang_on_the_unit_and_shrink_with_the_multiple() -> None:
    rng = np.random.default_rng(0)
    pre, current, e = rng.normal(size=200), rng.normal(size=200), rng.normal(size=(200, 8))
    columns = {"p": pre, "c": 3 * current + 7, "e": e.astype(np.float32), "q": pre}
    options = {"pre": "p", "current": "c", "embedding": "e", "quality": "q"}
    marks = [
        run(columns, **options, m_hard=m, m_sparse=m, m_low=m).columns for m in (0.0, 0.5, 1.5)
    ]
    for name in ("hard", "sparse", "low"):
        for small, large in zip(marks[1:], marks, strict=False):
            assert (small[name] <= large[name]).all()
    again = run(columns | {"c": current}, **options, m_hard=0.5).columns
    assert again["hard"].tolist() == marks[1]["hard"].tolist()
    order = rng.permutation(200)
    mixed = run({n: c[order] for n, c in columns.items()}, **options, m_sparse=0.5).columns
    assert mixed["sparse"].tolist() == marks[1]["sparse"][order].tolist()


def test_copies_are_never_sparse_and_rows_without_vectors_have_no_mark() -> None:
    rng = np.random.default_rng(1)
    e = rng.normal(size=(60, 6)).astype(np.float32)
    e[10:20] = e[10]
    e[0], e[1] = np.nan, 0
    found = run({"e": e}, embedding="e").columns
    np.testing.assert_allclose(found["similarity"][10:20], 1)
    assert (found["sparse"][10:20] == 0).all()
    assert np.isnan(found["sparse"][:2]).all() and np.isnan(found["hard"]).all()
    assert found["reason"].tolist() == ["no_value: e"] * 2 + [None] * 58
    both = {"q": np.array([np.nan, 1, np.nan] + [2.0] * 57), "e": e}
    reasons = run(both, embedding="e", quality="q").columns["reason"].tolist()
    assert reasons[:4] == ["no_value: e", "no_value: e", "no_value: q", None]
    assert np.isnan(run({"e": e[2:3]}, embedding="e").columns["similarity"]).all()
    two = run({"e": e[2:4]}, embedding="e").columns
    assert np.isfinite(two["similarity"]).all()


def test_deviations_are_those_of_the_published_code() -> None:
    x = [1.0, 2.0, 4.0, 9.0]
    columns = {"x": np.array(x)}
    found = run(columns, pre="x", current="x", quality="x", m_hard=0.5, m_low=0.5).facts
    mean = statistics.mean(x)
    assert found["pre_threshold"] == pytest.approx(mean + 0.5 * statistics.pstdev(x))
    assert found["low_threshold"] == pytest.approx(mean - 0.5 * statistics.stdev(x))


def test_marks_within_sources() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 40), rng.normal(9, 1, 40)])
    source = np.array(["a"] * 40 + ["b"] * 40, dtype=object)
    options = {"quality": "q", "m_low": 1.0, "within": ["source"]}
    scorer = registry.build("middo", model=None, options=options, device="cpu")
    assert scorer.needs() == {"q", "source"}
    given = Rows(80, {"q": x, "source": source}, lambda: iter(()))
    found = scorer.score_pool(given, advance=lambda n: None)
    wanted = [v < part.mean() - part.std(ddof=1) for part in (x[:40], x[40:]) for v in part]
    assert found.columns["low"].tolist() == wanted and any(wanted[40:])
    assert " to " in found.facts["low_threshold"]


def test_cutoffs_of_nothing() -> None:
    for outside in (cutoff.above(np.full(3, np.nan), 1), cutoff.below(np.ones(1), 1, sample=True)):
        assert not outside.rows.any() and np.isnan(outside.threshold).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs pre and current, embedding, or quality"),
        ({"pre": "nll.mean"}, "hard needs both"),
        ({"quality": "q", "m_low": -1.0}, "multiples of 0 or more"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run({"q": np.zeros(1)}, **options)
    with pytest.raises(DataError, match="a vector a row"):
        run({"q": np.zeros(3)}, embedding="q")


def test_six_questions_a_row(serve: Any, batch: Any, pair: Any) -> None:
    url = serve(by_content={"the factuality of the prompt": "none"}, reply=["7.5 as"])
    scorer = registry.build("middo_quality", model=_served(url), options={}, device="cpu")
    rows = [pair("asked", "said"), [{"role": "system", "content": "x"}]]
    told: list[int] = []
    found = scorer.score(batch(rows), advance=told.append)
    assert set(found) == set(scorer.fields) and sum(told) == 2
    assert found["clarity_prompt"][0] == 7.5 and np.isnan(found["factuality_prompt"][0])
    assert np.isnan(found["value"]).all()
    assert found["reason"].tolist() == ["no_number_in_reply", "no_instruction"]
    said = [r["body"]["messages"][0]["content"] for r in httpx.get(url).json()["requests"]]
    assert len(said) == len(ASPECTS) * len(PARTS) == 6
    assert sum("Response:\nsaid" in text for text in said) == 3
    good = _served(serve(reply=["8"]))
    scorer = registry.build("middo_quality", model=good, options={}, device="cpu")
    found = scorer.score(batch([pair("q", "a")]), advance=told.append)
    assert found["value"].tolist() == [8] and found["reason"].tolist() == [None]


def _served(url: str) -> Model:
    endpoint = {"url": url, "model": "m"}
    return Model.model_validate({"endpoint": endpoint, "prompt_style": "chat"})
