"""Tuning and evaluation as stages: what is reused, what is compared, commands of users."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.demo.lm import Shape, new_model, train_tokenizer
from tamis.errors import RecipeError, TamisError
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout, difference, evaluate
from tamis.pipelines.pool import Snapshot
from tamis.pipelines.tune import tune
from tamis.storage import manifests

SHAPE = Shape(vocab=320, width=32, layers=1, heads=2, inner=48, positions=128)
ROWS = [
    {"question": f"what is {i} and {i % 3}?", "answer": f"it is {i + i % 3}", "skill": f"s{i % 2}"}
    for i in range(24)
]
TUNE = {"method": "full", "learning_rate": 0.01, "rows_per_step": 8, "model": "lm", "epochs": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    talk = [[("user", r["question"]), ("assistant", r["answer"])] for r in ROWS]
    rows = [{"messages": [{"role": a, "content": b} for a, b in t]} for t in talk]
    tokenizer = train_tokenizer(rows, SHAPE)
    new_model(len(tokenizer), SHAPE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pool(put_rows: Callable[..., Snapshot]) -> Snapshot:
    return put_rows("pool", ROWS)


@pytest.fixture
def context(make_context: Callable[..., Context], model: Path) -> Callable[..., Context]:
    def make(
        tune: dict[str, Any] | None = None, evaluate: dict[str, Any] | None = None, **given: Any
    ) -> Context:
        return make_context(
            models={"lm": {"path": str(model), "prompt_style": "chat"}},
            tune={**TUNE, **(tune or {})},
            evaluate={"max_new_tokens": 4, "bootstrap": 100, **(evaluate or {})},
            **given,
        )

    return make


@pytest.fixture
def manifest(pool: Snapshot, tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest of some rows of the pool."""

    def write(positions: list[int], name: str = "m", shard_rows: int = 100) -> Path:
        rows = pool.rows(pool.ids.take(pa.array(positions)))
        n = rows.num_rows
        table = pa.table(
            {
                "row_id": rows["id"],
                **{c: rows[c] for c in ("messages", "tools", "source")},
                "weight": pa.nulls(n, pa.float32()),
                "ability": pa.nulls(n, pa.string()),
                "score": pa.nulls(n, pa.float32()),
            }
        )
        about = {"selection": {}, "seed": 0, "heldout": {}}
        manifests.write(
            tmp_path / name, table, None, name=name, about=about, licences=[], shard_rows=shard_rows
        )
        return tmp_path / name

    return write


def test_models_are_keyed_by_what_determines_them(
    context: Callable[..., Context], manifest: Callable[..., Path]
) -> None:
    folder = manifest([0, 1, 2, 3, 4])
    one, reused = tune(context(), folder)
    assert not reused and one.facts["rows"] == 5 and one.facts["method"] == "full"
    assert (one.path / "model" / "model.safetensors").is_file()
    assert (one.path / "train_report.json").is_file()
    assert not (one.path / "checkpoints").exists()
    same = [
        tune(context(), manifest([4, 3, 2, 1, 0], "other", shard_rows=2)),
        tune(context(tune={"save_every": 1}), folder),
    ]
    assert [(a.key, old) for a, old in same] == [(one.key, True)] * 2
    other = [
        tune(context(), manifest([0, 1, 2, 3, 5], "third")),
        tune(context(tune={"learning_rate": 0.02}), folder),
        tune(context(seed=1), folder),
        tune(context(tune={"method": "lora", "options": {"rank": 2}}), folder),
    ]
    assert [old for _, old in other] == [False] * 4
    assert len({one.key, *(a.key for a, _ in other)}) == 5


def test_tuning_shows_in_the_paired_difference(
    context: Callable[..., Context], manifest: Callable[..., Path], pool: Snapshot
) -> None:
    ctx = context(evaluate={"group_by": "skill"})
    held = Heldout(pool, pool.ids)
    for method in ("full", "lora"):
        given = {"method": method, "epochs": 6, "learning_rate": 0.02}
        tuned, _ = tune(context(tune=given), manifest(list(range(24)), method))
        after, _ = evaluate(ctx, tuned, held)
        before, _ = evaluate(ctx, None, held)
        found = difference(after, before, seed=0)
        assert found["nll"]["high"] < -1.0
        assert found["nll"]["value"] == pytest.approx(
            after.facts["nll"]["value"] - before.facts["nll"]["value"]
        )
        assert set(after.facts["groups"]) == {"s0", "s1"}
        assert after.facts["groups"]["s0"]["rows"] == 12
        rows = pq.read_table(after.path / "rows.parquet")
        assert rows["id"].to_pylist() == pool.ids.to_pylist()
        assert evaluate(ctx, tuned, held) == (after, True)
        assert not evaluate(ctx, tuned, Heldout(pool, pool.ids.slice(1)))[1]


def test_limit_and_unknown_group(context: Callable[..., Context], pool: Snapshot) -> None:
    held = Heldout(pool, pool.ids)
    found, _ = evaluate(context(evaluate={"limit": 5}), None, held)
    assert found.facts["rows"] == 5
    with pytest.raises(RecipeError, match="no column 'family'"):
        evaluate(context(evaluate={"group_by": "family"}), None, held)
    with pytest.raises(RecipeError, match="no evaluate block"):
        evaluate(context(), None, None)


TRAINER = """
import json, pathlib, sys
manifest, out = map(pathlib.Path, sys.argv[1:3])
info = json.loads((manifest / "manifest.json").read_text())
(out / "weights.txt").write_text(info["content_hash"])
(out / "metrics.json").write_text(json.dumps({"rows": info["files"][0]["n_rows"]}))
print("trained; this must not reach stdout")
"""
JUDGE = """
import json, pathlib, sys
model, out = map(pathlib.Path, sys.argv[1:3])
(out / "metrics.json").write_text(json.dumps({"size": len((model / "weights.txt").read_text())}))
"""


def script(folder: Path, name: str, text: str, places: str) -> str:
    path = folder / f"my {name}.py"  # with a space: words are split as a shell would
    path.write_text(text)
    return f"'{sys.executable}' '{path}' {places}"


def test_commands_of_the_user(
    context: Callable[..., Context],
    manifest: Callable[..., Path],
    pool: Snapshot,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train = script(tmp_path, "trainer", TRAINER, "{manifest} {out}")
    judge = script(tmp_path, "judge", JUDGE, "{model} {out}")
    ctx = context(tune={"command": train}, evaluate={"command": judge})
    folder = manifest([0, 1, 2])
    tuned, _ = tune(ctx, folder)
    assert tuned.facts["metrics"] == {"rows": 3}
    digest = manifests.read(folder).content_hash
    assert (tuned.path / "model" / "weights.txt").read_text() == digest
    held = Heldout(pool, pool.ids)
    judged, _ = evaluate(ctx, tuned, held)
    assert judged.facts["metrics"] == {"size": 64}
    assert difference(judged, judged, seed=0) == {}
    assert tune(ctx, folder)[1] and evaluate(ctx, tuned, held)[1]
    captured = capfd.readouterr()
    assert captured.out == "" and "trained" in captured.err


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("true {manifest}", RecipeError, "must name {out}"),
        ("false {out}", TamisError, "false ended with status 1"),
        ("no-such-program-here {out}", TamisError, "cannot run no-such-program-here"),
        ("echo 'open {out}", RecipeError, "cannot be split"),
    ],
)
def test_commands_that_fail(
    context: Callable[..., Context],
    manifest: Callable[..., Path],
    command: str,
    error: type[TamisError],
    message: str,
) -> None:
    ctx = context(tune={"command": command})
    with pytest.raises(error, match=message):
        tune(ctx, manifest([0, 1]))
    assert ctx.store.all("models") == []


def test_metrics_must_be_numbers(
    context: Callable[..., Context], manifest: Callable[..., Path], tmp_path: Path
) -> None:
    bad = TRAINER.replace('info["files"][0]["n_rows"]', '"many"')
    ctx = context(tune={"command": script(tmp_path, "trainer", bad, "{manifest} {out}")})
    with pytest.raises(TamisError, match="object of finite numbers"):
        tune(ctx, manifest([0, 1]))


def test_a_tuned_folder_is_loaded_as_what_it_is(tmp_path: Path, model: Path) -> None:
    from tamis.recipe import Model
    from tamis.storage.artifact import Artifact

    base = Model(path=str(model), prompt_style="chat")
    artifact = Artifact("models", "k", tmp_path)
    (tmp_path / "model").mkdir()
    assert evaluation.tuned_model(base, artifact).path == str(tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    assert evaluation.tuned_model(base, artifact).adapter == str(tmp_path / "model")
    assert evaluation.tuned_model(base, None) == base
