"""Selection in rounds from a recipe: what each round picks, trains and scores; kills between."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from tamis.errors import RecipeError
from tamis.numerics import round_weights
from tamis.pipelines.context import Context
from tamis.pipelines.pool import snapshot
from tamis.pipelines.run import Summary, run
from tamis.recipe import Model, Recipe
from tamis.storage import files, manifests
from tamis.storage.artifact import Artifact, Store
from tamis.trainer import gap

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog"]
ROWS = [
    {
        "instruction": f"say {WORDS[i % 10]} {i}",
        # Answers of one topic are all alike, those of the other are noise.
        "output": "yes yes" if i % 3 == 0 else " ".join(WORDS[(i * 7 + j) % 10] for j in range(4)),
        "topic": "alike" if i % 3 == 0 else "noise",
    }
    for i in range(60)
]
METHOD = {
    "method": "kmeans_rounds",
    "options": {"options": {"labels": "topic", "quality": None}, "max_new_tokens": 6},
    "budget": {"rows": 20},
}
TUNE = {"model": "lm", "method": "full", "learning_rate": 0.01, "rows_per_step": 4, "epochs": 2}


class Killed(BaseException):
    """Ends a run as a kill would."""


@pytest.fixture(scope="module")
def blocks(tiny_lm: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("rounds") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return {
        "sources": {"pool": {"path": str(path)}},
        "models": {"lm": {"path": str(tiny_lm()), "prompt_style": "plain"}},
        "select": METHOD,
        "tune": TUNE,
    }


@pytest.fixture(scope="module")
def go(blocks: Any) -> Callable[..., Summary]:
    """Run the recipe on a store, up to the tuned model."""

    class Silent:
        def __init__(self, title: str, total: int) -> None:
            pass

        def __enter__(self) -> Callable[[int], None]:
            return lambda n: None

        def __exit__(self, *_: object) -> None:
            return None

    def make(root: Path, until: str = "tune", **more: Any) -> Summary:
        recipe = Recipe.model_validate({**blocks, **more})
        return run(Context(recipe, Store(root), "cpu", lambda _: None, Silent), until=until)

    return make


@pytest.fixture(scope="module")
def done(go: Callable[..., Summary], tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return go(tmp_path_factory.mktemp("undisturbed") / "store")


def rounds(store: Store) -> list[tuple[Artifact, dict[str, np.ndarray]]]:
    made = sorted(store.all("rounds"), key=lambda a: a.facts["round"])
    return [(a, safetensors.numpy.load_file(a.path / "state.safetensors")) for a in made]


def test_a_round_builds_on_the_one_before(done: Summary) -> None:
    store = Store(done.store)
    made = rounds(store)
    assert [a.facts["round"] for a, _ in made] == [1, 2, 3]
    assert [state["sizes"].tolist() for _, state in made] == [[6], [6, 6], [6, 6, 8]]
    for (before, old), (after, new) in pairwise(made):
        assert after.seal["inputs"]["before"] == before.key
        n = len(old["picked"])
        assert new["picked"][:n].tolist() == old["picked"].tolist()
        # The weights follow from the scores of the rows picked so far, in their order.
        scored = store.get("evaluations", after.seal["inputs"]["scores"])
        table = pq.read_table(scored.path / "rows.parquet")
        assert table["id"].to_pylist() == ids_of(before)
        score = table["score"].to_numpy()
        have = ~np.isnan(score)
        label = old["labels"][old["picked"]]
        mean = round_weights.cluster_scores(label[have], score[have], 2)
        want = round_weights.update(old["weights"][-1], mean, "exp_multiplicative")
        np.testing.assert_array_equal(new["weights"][-1], want)
        # It was scored by the model that was tuned on just these rows, for one epoch.
        tuned = store.get("models", scored.seal["inputs"]["tuned"])
        assert tuned.facts["rows"] == tuned.facts["rows_seen"] == n
    assert len(set(made[-1][1]["weights"][-1].tolist())) == 2


def ids_of(artifact: Artifact) -> list[str]:
    table = pq.read_table(artifact.path / "rows.parquet")
    ids: list[str] = table.filter(table["kept"]).sort_by("rank")["id"].to_pylist()
    return ids


def test_the_selection_is_what_all_rounds_picked(done: Summary) -> None:
    store = Store(done.store)
    chosen = store.get("selections", done.keys["chosen/selection"])
    last, state = rounds(store)[-1]
    assert ids_of(chosen) == ids_of(last) and len(set(ids_of(chosen))) == 20
    curves = files.read_json(chosen.path / "curves.json")
    assert curves["weights"] == state["weights"].tolist()
    assert np.shape(curves["scores"]) == (2, 2) and curves["picks"] == [6, 6, 8]
    facts = chosen.facts
    assert (facts["rounds"], facts["clusters"], facts["limit"], facts["shortfall"]) == (3, 2, 20, 0)
    manifest = manifests.read(store.folder("manifests", done.keys["chosen/manifest"]))
    assert manifest.rows()["row_id"].to_pylist() == ids_of(chosen)
    # The last training is that of the recipe: its own number of epochs.
    final = store.get("models", done.keys["chosen/model"])
    assert final.facts["rows_seen"] == 2 * final.facts["rows"] == 40


def test_the_scores_are_those_of_the_model_tuned_on_the_round(
    done: Summary, blocks: Any, no_progress: Any
) -> None:
    store = Store(done.store)
    pool = snapshot(store, {"pool": done.keys["samples/pool"]})
    (first, _), (second, _), _ = rounds(store)
    scored = store.get("evaluations", second.seal["inputs"]["scores"])
    tuned = store.folder("models", scored.seal["inputs"]["tuned"]) / "model"
    untuned = blocks["models"]["lm"]["path"]
    found = pq.read_table(scored.path / "rows.parquet")
    scores = {}
    for path in (str(tuned), untuned):
        scores[path] = gap.answer_gap(
            pool.rows(pa.array(ids_of(first)), ["id", "messages", "tools"]),
            Model(path=path, prompt_style="plain"),
            max_new_tokens=6,
            device="cpu",
            progress=no_progress,
            title="score",
        )
    assert scores[str(tuned)] == found
    assert scores[untuned] != found


def test_another_run_computes_nothing(go: Callable[..., Summary], done: Summary) -> None:
    again = go(done.store)
    assert again.keys == done.keys
    assert sum(o.computed for o in again.outcomes) == 0


def test_killed_behind_every_step(
    go: Callable[..., Summary],
    done: Summary,
    contents: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ensure = Store.ensure
    alive = [True]

    def once(self: Store, *args: Any, **named: Any) -> tuple[Artifact, bool]:
        """Lets one artefact be made, then the run is gone; nothing is written after that."""
        if not alive[0]:
            raise Killed
        made, reused = ensure(self, *args, **named)
        if not reused:
            alive[0] = False
            raise Killed
        return made, reused

    monkeypatch.setattr(Store, "ensure", once)
    kills = 0
    while True:
        alive[0] = True
        try:
            go(tmp_path / "store")
            break
        except Killed:
            kills += 1
            assert kills < 30
    # Three picks, two times manifest, model and scores, and the stages around.
    assert kills >= 3 + 6 + 4
    found, want = (contents(s, "ingest_seconds") for s in (tmp_path / "store", done.store))
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == value, name


def test_other_methods_of_the_run_are_left_alone(
    go: Callable[..., Summary], tmp_path: Path
) -> None:
    evaluate = {"max_new_tokens": 0, "holdout_percent": 10}
    mixed = go(tmp_path / "s", until="select", evaluate=evaluate)
    store = Store(tmp_path / "s")
    baseline = store.get("selections", mixed.keys["baseline/selection"])
    assert baseline.facts["method"] == "random"
    assert "rounds" not in baseline.seal["inputs"]
    held = [r for r in reasons(store, mixed) if r == "held_out"]
    assert held and not set(ids_of(rounds(store)[-1][0])) & set(heldout(store, mixed))


def reasons(store: Store, summary: Summary) -> list[str]:
    path = store.folder("selections", summary.keys["chosen/selection"]) / "rows.parquet"
    found: list[str] = pq.read_table(path)["reason"].to_pylist()
    return found


def heldout(store: Store, summary: Summary) -> list[str]:
    path = store.folder("selections", summary.keys["chosen/selection"]) / "rows.parquet"
    table = pq.read_table(path)
    pairs = zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return [i for i, reason in pairs if reason == "held_out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tune": None}, "add the block tune"),
        ({"tune": {**TUNE, "model": None, "command": "x {out}"}}, "tune needs a model"),
        ({"select": {**METHOD, "budget": {"tokens": 99}}}, "rows or percent"),
        ({"select": {**METHOD, "budget": {"rows": 2}}}, "2 rows are too few for 3 rounds"),
        (
            {
                "select": {
                    **METHOD,
                    "method": "quota",
                    "options": {"by": ["topic"], "method": "kmeans_rounds"},
                }
            },
            "cannot stand inside",
        ),
    ],
)
def test_what_it_needs_is_told(
    go: Callable[..., Summary], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        go(tmp_path / "s", until="select", **change)
