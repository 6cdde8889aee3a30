"""The command through its real entry point: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def tamis(*args: str, cwd: Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tamis", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 60 rows, scored and selected by the command."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [
        {"instruction": f"Write {i}.", "output": "x" * (i + 1), "family": ["even", "odd"][i % 2]}
        for i in range(60)
    ]
    lines = [json.dumps(r) for r in [*rows, rows[3], {"instruction": "q", "output": " "}]]
    (folder / "rows.jsonl").write_text("\n".join([*lines, '{"broken', ""]), encoding="utf-8")
    done = tamis("ingest", "rows.jsonl", "--name", "mine", "--json", cwd=folder)
    told = document(done)
    assert told["accepted"] == 61
    assert told["duplicates"] == 1
    assert sorted(told["rejected"].values()) == [1, 1]
    assert told["rows_per_second"] > 0
    tamis("score", "--scorer", "length", cwd=folder)
    top = ("--method", "top", "--option", "column=length.answer_chars")
    done = tamis("select", *top, "--rows", "10", "--json", cwd=folder)
    assert document(done)["kept"] == 10
    return folder


def test_scoring_again_computes_nothing(work: Path) -> None:
    told = document(tamis("score", "--scorer", "length", "--json", cwd=work))
    assert told["computed"] == 0
    assert told["reused"] > 0


def test_sql_prints_rows_as_json_and_nothing_else(work: Path) -> None:
    query = (
        "select family, count(*) n, avg(length.answer_chars) a from signals group by 1 order by 1"
    )
    got = document(tamis("sql", query, "--json", cwd=work))
    assert [r["family"] for r in got] == ["even", "odd"]
    assert sum(r["n"] for r in got) == 61
    reasons = document(
        tamis("sql", "select reason, count(*) n from rejected group by 1", "--json", cwd=work)
    )
    assert {r["reason"] for r in reasons} == {"empty_answer", "invalid_json"}


def test_the_longest_answers_were_kept(work: Path) -> None:
    query = (
        "select min(length.answer_chars) low, max(length.answer_chars) high, count(*) n "
        "from signals join selections using (id) where kept"
    )
    assert document(tamis("sql", query, "--json", cwd=work)) == [{"low": 51, "high": 60, "n": 10}]


def test_explain_tells_what_happened_to_a_row(work: Path) -> None:
    rows = document(tamis("sql", "select id, kept from selections", "--json", cwd=work))
    kept = next(r["id"] for r in rows if r["kept"])
    dropped = next(r["id"] for r in rows if not r["kept"])
    assert "kept as number" in tamis("explain", kept, cwd=work).stdout
    told = document(tamis("explain", dropped, "--json", cwd=work))
    assert told["selections"][0]["kept"] is False
    assert told["selections"][0]["reason"]
    assert {s["signal"] for s in told["signals"]} >= {"length.answer_chars"}
    assert "empty_answer" in tamis("explain", "rows.jsonl:62", cwd=work).stdout


def stored(work: Path) -> list[Path]:
    """All files of the store but the logs: a run that failed is logged as failed."""
    files = (p for p in (work / "tamis-store").rglob("*") if p.is_file())
    return sorted(p for p in files if p.parent.name not in ("runs", "locks"))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["sql", "drop table samples"], "exactly one SELECT"),
        (["sql", "select nope from samples"], "nope"),
        (["explain", "zzzz"], "no sample has an id"),
        (["select", "--method", "deitta", "--rows", "5"], "deita"),
        (["select", "--method", "top", "--rows", "5", "--option", "colum=1"], "column"),
        (["select", "--method", "top", "--rows", "5", "--percent", "5"], "exactly one of rows"),
        (["select", "--method", "random", "--rows", "5", "--source", "no"], "no source 'no'"),
        (["score", "--scorer", "perplexitty"], "perplexity"),
        (["score", "--scorer", "nll"], "model"),
        (["run", "none.yaml"], "cannot read the recipe"),
        (["ingest", "nothing-*.jsonl", "--name", "x"], "nothing-"),
        (["methods", "kmean"], "kmeans"),
        (["--store", "x"], ""),
    ],
)
def test_errors_are_one_line_and_the_store_is_left_alone(
    work: Path, args: list[str], told: str
) -> None:
    before = stored(work)
    done = tamis(*args, cwd=work, check=1 if told else 2)
    assert told in done.stderr
    assert done.stdout == ""
    if told:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert stored(work) == before


def test_no_store_is_told(tmp_path: Path) -> None:
    done = tamis("sql", "select 1", cwd=tmp_path, check=1)
    assert "tamis ingest" in done.stderr
    assert not (tmp_path / "tamis-store").exists()


def test_init_writes_a_recipe_once(tmp_path: Path) -> None:
    tamis("init", cwd=tmp_path)
    text = (tmp_path / "recipe.yaml").read_text()
    assert "sources:" in text
    assert "exists already" in tamis("init", cwd=tmp_path, check=1).stderr
    assert (tmp_path / "recipe.yaml").read_text() == text


def test_schema_doctor_and_methods_print_documents(work: Path) -> None:
    assert "sources" in document(tamis("schema", cwd=work))["properties"]
    told = document(tamis("doctor", "--json", cwd=work))
    assert told["store"]["samples"] == 1
    assert told["store"]["damaged"] == "none"
    methods = document(tamis("methods", "--json", cwd=work))
    kinds = {(m["kind"], m["name"]) for m in methods}
    assert {
        ("scorer", "ifd"),
        ("selector", "quota"),
        ("selector", "deita"),
        ("online", "uds"),
    } <= kinds
    assert all(m[field] for m in methods for field in ("sentence", "needs", "cost", "avoid"))


def test_every_command_has_help(tmp_path: Path) -> None:
    listing = tamis("--help", cwd=tmp_path).stdout
    for name in [
        "run",
        "ingest",
        "score",
        "select",
        "export",
        "tune",
        "evaluate",
        "schedule",
        "sql",
        "explain",
        "diff",
        "report",
        "methods",
        "doctor",
        "init",
        "schema",
        "demo",
    ]:
        assert name in listing
        assert "--help" in tamis(name, "--help", cwd=tmp_path).stdout


def test_a_budget_in_tokens_needs_the_tokens_scored(
    work: Path, tiny_lm: Callable[..., Path]
) -> None:
    wanted = ("select", "--method", "random", "--supervised-tokens", "100")
    assert "a score called tokens" in tamis(*wanted, cwd=work, check=1).stderr
    model = ("--model", str(tiny_lm()), "--prompt-style", "plain")
    tamis("score", "--scorer", "tokens", *model, cwd=work)
    told = document(tamis(*wanted, "--json", cwd=work))
    assert 0 < told["supervised_tokens"] <= 100
    assert told["shortfall"] == 100 - told["supervised_tokens"]
