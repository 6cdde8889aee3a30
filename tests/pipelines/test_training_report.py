"""What a trained model told of itself, in the tables, the summary and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from tamis.pipelines import report as reports
from tamis.pipelines import run as running
from tamis.pipelines import summary
from tamis.pipelines.reporting.curves import trend
from tamis.pipelines.run import Summary
from tamis.recipe import build
from tamis.storage import files
from tamis.storage.catalogue import open_store
from tamis.trainer.report import early


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> Summary:
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"instruction": f"say {i}", "output": f"{i} is said" * (1 + i % 3)} for i in range(30)]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = build(
        {
            "store": str(folder / "store"),
            "sources": {"pool": {"path": str(folder / "pool.jsonl")}},
            "models": {"lm": {"path": str(tiny_lm()), "prompt_style": "chat"}},
            "select": {"method": "random", "budget": {"rows": 24}},
            "tune": {
                "model": "lm",
                "options": {"rank": 2},
                "rows_per_step": 8,
                "epochs": 2,
                "online": {"method": "uds", "keep": 0.5, "options": {"max_length": 128}},
                "evaluate_every": 2,
                "diagnose": {"every": 3, "points": 40, "neighbours": 10},
            },
            "evaluate": {"holdout_percent": 20, "max_new_tokens": 0, "baseline": None},
        },
        where="test",
    )
    return running.run(
        running.context(recipe, say=lambda _: None, progress=lambda *_: nullcontext(lambda n: None))
    )


def test_diagnostics_are_columns_of_the_table(done: Summary) -> None:
    rows = open_store(done.store).sql("select * from training order by step").to_pylist()
    assert [r["step"] for r in rows if r["lid"] is not None] == [3, len(rows)]
    for name in ("lid_std", "lid_heldout", "intruders"):
        assert [r["step"] for r in rows if r[name] is not None] == [3, len(rows)]


def test_the_summary_tells_what_was_trained(done: Summary) -> None:
    facts = done.facts("tune")["chosen"]
    told = "\n".join(summary.lines(done))
    assert f"chosen: lora trained {facts['trainable_share']:.2%} of the weights in" in told
    assert f"NLL {facts['first_nll']:.4f} -> {facts['last_nll']:.4f}" in told
    online = facts["online"]
    assert f"uds chose {online['kept_rows']} of {online['candidate_rows']} rows" in told


def test_the_report_draws_it(done: Summary) -> None:
    store = open_store(done.store)
    data = reports.collect(store, store.sql("select * from runs").to_pylist()[0])
    model = done.keys["chosen/model"]
    told = files.read_json(store.store.folder("models", model) / "train_report.json")
    drawn = {curve.title: curve.lines[0] for curve in data.steps}
    seen = [e for e in told["history"] if "lid" in e]
    for title, name in (
        ("Local dimension of hidden states, training rows", "lid"),
        ("Local dimension of hidden states, held-out rows", "lid_heldout"),
        ("Directions of a matrix that are new", "intruders"),
    ):
        assert list(drawn[title].x) == [e["step"] for e in seen]
        assert list(drawn[title].y) == [e[name] for e in seen]
    watched = told["heldout_history"]
    assert list(drawn["NLL of held-out rows"].y) == [e["nll"] for e in watched]
    (training,) = data.training
    assert training.facts["gradient norm of the first step"] == f"{told['early']['grad_norm']:.4g}"
    assert training.online["rows trained on"] == str(told["online"]["kept_rows"])


def test_what_a_line_of_dimensions_says() -> None:
    assert trend(np.array([10.0, 8.0, 7.0])) == []
    assert trend(np.array([10.0, 8.0, 8.02, 7.99, 8.01])) == [
        "it changed by less than 1% over the last 3 looks."
    ]
    assert trend(np.array([10.0, 8.0, 8.5, 8.6])) == [
        "it has risen by more than 5% above its lowest."
    ]
    assert trend(np.array([10.0, 8.0, 8.3, 8.6])) == []


def test_early_signals_are_of_the_first_twentieth() -> None:
    history = [{"tokens": 10 * i, "nll": 4.0 - i / 10, "grad_norm": float(i)} for i in range(1, 41)]
    found = early(history)
    assert found["steps"] == 2 and found["grad_norm"] == 1.5
    assert found["nll"] == pytest.approx((10 * 3.9 + 20 * 3.8) / 30)
    assert early([{"tokens": 3, "nll": 1.0}]) == {"steps": 1, "nll": 1.0}
