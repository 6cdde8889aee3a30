"""Models tuned on the pool before it is scored with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.errors import RecipeError
from tamis.pipelines import run as running
from tamis.pipelines.run import Summary
from tamis.recipe import Model, build
from tamis.samples import decode_messages
from tamis.scoring import registry
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore

ROWS = 40
TUNED = {"model": "lm", "method": "full", "learning_rate": 0.01, "rows_per_step": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pretune")
    made = [{"instruction": f"say {i}", "output": f"it is {i % 7}"} for i in range(ROWS)]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, made)))
    target = [{"instruction": f"tell {i}", "output": "it is 3"} for i in range(5)]
    (folder / "target.jsonl").write_text("\n".join(map(json.dumps, target)))
    return {
        "pool": str(folder / "pool.jsonl"),
        "target": str(folder / "target.jsonl"),
        "lm": str(tiny_lm()),
    }


def run(files: dict[str, str], store: Path, *, until: str = "score", **blocks: Any) -> Summary:
    content = {
        "store": str(store),
        "sources": {"pool": {"path": files["pool"]}},
        "models": {"lm": {"path": files["lm"], "prompt_style": "chat"}},
        "scores": {"plain": {"scorer": "nll", "model": "lm"}, "nll": {"model": "after"}},
        **blocks,
    }
    ctx = running.context(
        build(content, where="test"),
        say=lambda _: None,
        progress=lambda *_: nullcontext(lambda n: None),
    )
    return running.run(ctx, until=until)


def signals(store: Path) -> dict[str, tuple[float, float]]:
    """Content key -> NLL by the untuned and by the tuned model."""
    table = OpenStore(Store(store)).sql("select content_key, plain.mean, nll.mean from signals")
    return {k: (a, b) for k, a, b in zip(*(c.to_pylist() for c in table.columns), strict=True)}


def models(store: Path) -> list[Path]:
    return [a.path / "model" for a in Store(store).all("models")]


def trained_on(store: Path) -> list[set[str]]:
    """The instructions in each manifest."""
    found = []
    for manifest in Store(store).all("manifests"):
        texts = set()
        for part in manifest.path.glob("**/train*.parquet"):
            for row in pq.read_table(part).column("messages").to_pylist():
                texts.add(row[0]["content"])
        found.append(texts)
    return found


def test_one_model_sees_and_scores_all_rows(files: dict[str, str], tmp_path: Path) -> None:
    run(files, tmp_path, tuned={"after": {**TUNED, "epochs": 8}})
    values = np.array(list(signals(tmp_path).values()))
    assert values.shape == (ROWS, 2)
    assert values[:, 1].mean() < values[:, 0].mean() - 0.5
    assert len(models(tmp_path)) == 1
    assert [len(texts) for texts in trained_on(tmp_path)] == [ROWS]


def test_a_row_is_scored_by_the_model_that_has_not_seen_it(
    files: dict[str, str], tmp_path: Path
) -> None:
    run(files, tmp_path, tuned={"after": {**TUNED, "folds": 2}})
    assert len(models(tmp_path)) == 2
    one, other = trained_on(tmp_path)
    assert not one & other and len(one | other) == ROWS
    assert min(len(one), len(other)) > ROWS / 5
    store = Store(tmp_path)
    (part,) = store.folder("samples", store.latest("samples")["pool"]).glob("part-*.parquet")
    rows = pq.read_table(part)
    stored = signals(tmp_path)
    by_hand = {}
    for path in models(tmp_path):
        model = Model(path=str(path), prompt_style="chat")
        scorer = registry.build("nll", model=model, options={}, device="cpu")
        (group,) = registry.group({"nll": scorer})
        batch = rows.combine_chunks().to_batches()[0]
        by_hand[path] = group.score(batch, advance=lambda n: None)["nll"]["mean"]
    asked = [turns[0]["content"] for turns in decode_messages(rows.column("messages"))]
    seen = _by_model(store)
    for i, key in enumerate(rows.column("content_key").to_pylist()):
        (unseen,) = [path for path in by_hand if asked[i] not in seen[path]]
        assert stored[key][1] == pytest.approx(by_hand[unseen][i], abs=1e-5)


def _by_model(store: Store) -> dict[Path, set[str]]:
    """The instructions that each model was trained on."""
    texts = {}
    for manifest in store.all("manifests"):
        rows = [
            row[0]["content"]
            for part in manifest.path.glob("**/train*.parquet")
            for row in pq.read_table(part).column("messages").to_pylist()
        ]
        texts[manifest.facts["content_hash"]] = set(rows)
    return {a.path / "model": texts[a.seal["inputs"]["train"]] for a in store.all("models")}


def test_nothing_is_tuned_or_scored_twice(files: dict[str, str], tmp_path: Path) -> None:
    first = run(files, tmp_path, tuned={"after": {**TUNED, "folds": 2}})
    again = run(files, tmp_path, tuned={"after": {**TUNED, "folds": 2}})
    assert first.outcomes[1].computed == again.outcomes[1].reused == 2 * ROWS
    assert again.outcomes[1].computed == 0 and len(models(tmp_path)) == 2
    run(files, tmp_path, tuned={"after": {**TUNED, "folds": 2, "epochs": 2}})
    assert len(models(tmp_path)) == 4


def test_held_out_rows_are_never_trained_on(files: dict[str, str], tmp_path: Path) -> None:
    blocks: dict[str, Any] = {
        "tuned": {"after": {**TUNED, "folds": 2}},
        "select": {"method": "top", "options": {"column": "nll.mean"}, "budget": {"rows": 5}},
        "tune": TUNED,
        "evaluate": {"max_new_tokens": 0, "bootstrap": 100},
    }
    summary = run(files, tmp_path, until="select", **blocks)
    held = OpenStore(Store(tmp_path)).sql(
        "select p.messages[1].content q from selections s join samples p using (id) "
        "where s.selection = $key and s.reason = 'held_out'",
        {"key": summary.keys["chosen/selection"]},
    )
    held_out = set(held.column("q").to_pylist())
    assert held_out and not held_out & set().union(*trained_on(tmp_path))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"tuned": {"after": {**TUNED, "model": "gone"}}}, "has no entry 'gone'"),
        ({"tuned": {"lm": TUNED, "after": TUNED}}, "both have an entry 'lm'"),
        ({"tuned": {"after": {**TUNED, "folds": 0}}}, "folds"),
        ({"tuned": {"after": {"folds": 2}}}, "a tuned model needs model"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    files: dict[str, str], tmp_path: Path, blocks: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run(files, tmp_path, **blocks)
    assert not (tmp_path / "samples").exists()
