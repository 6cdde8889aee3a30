"""Runs under an online rule: which rows are trained on, how often, at which loss."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.errors import DataError, RecipeError
from tamis.recipe import Model
from tamis.selectors import online as rules
from tamis.trainer import job
from tamis.trainer.data import Examples, prepare, steps
from tamis.trainer.given import Given
from tamis.trainer.online import ROWS

DROPOUT = {"options": {"rank": 4, "dropout": 0.1}}


@pytest.mark.parametrize("method", rules.names())
def test_every_rule_trains_six_steps_on_half_the_rows(
    method: str, run: Any, chosen: Any, picks: Any, kept: Any, weights_of: Any, tmp_path: Path
) -> None:
    report = run("a", online=chosen(method), max_steps=6, epochs=2)
    told, log = report["online"], picks("a")
    assert report["steps"] == len(report["history"]) == 6
    assert told["candidate_rows"] == log.num_rows == 48 and told["uncut"] == 0
    orders = steps(40, epochs=2, rows_per_step=8, max_steps=6, seed=3)
    assert log["row_id"].to_pylist() == [f"r{i:03d}" for group in orders for i in group]
    assert [len(rows) for rows in kept("a")] == [4] * 6
    times = Counter(row for step in kept("a") for row in step)
    histogram = Counter(times[f"r{i:03d}"] for i in range(40))
    assert told["rows_by_times_trained"] == {str(t): n for t, n in histogram.items()}
    assert all(times[row] == n for row, n in told["most_trained"])
    assert told["most_trained"][0][1] == max(times.values())
    rows = pq.read_table(tmp_path / "a" / ROWS).to_pydict()
    assert dict(zip(rows["row_id"], rows["times"], strict=True)) == {
        f"r{i:03d}": times[f"r{i:03d}"] for i in range(40)
    }
    assert ("weight" in rows) == (method == "bds")
    if method == "bds":
        assert np.mean(rows["weight"]) == pytest.approx(1) and np.std(rows["weight"]) > 0
    for entry in report["history"]:
        assert entry["online"]["kept_rows"] == 4 and np.isfinite(entry["loss"])
        assert entry["online"]["kept_tokens"] < entry["online"]["candidate_tokens"]
    assert all(w.isfinite().all() for w in weights_of(tmp_path / "a" / "model").values())


def test_how_far_utility_goes_with_length_is_told(
    run: Any, chosen: Any, picks: Any, tokenizer: Any, table: Any, sums: Any
) -> None:
    from scipy.stats import spearmanr

    report = run("a", online=chosen("uds"), max_steps=3)
    rows = prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)
    length = dict(zip(rows.row_id, rows.lengths.tolist(), strict=True))
    for step, entry in enumerate(report["history"]):
        log = picks("a").to_pandas().query(f"step == {step + 1}")
        wanted = spearmanr(log["utility"], [length[row] for row in log["row_id"]]).statistic
        assert entry["online"]["length_correlation"] == pytest.approx(wanted)
        assert wanted > 0.5


@pytest.mark.parametrize("method", ["random", "uds", "max_gradnorm"])
def test_to_keep_all_rows_is_plain_training(method: str, run: Any, chosen: Any, same: Any) -> None:
    """Dropout included: scoring draws nothing and leaves no mode behind."""
    plain = run("plain", **DROPOUT)
    report = run("all", **DROPOUT, online=chosen(method, keep=1))
    assert same("plain", "all")
    fields = ("loss", "nll", "tokens", "grad_norm", "learning_rate")
    for one, other in zip(plain["history"], report["history"], strict=True):
        assert [one[f] for f in fields] == [other[f] for f in fields]


@pytest.mark.parametrize("method", ["random", "uds"])
def test_half_the_rows_train_as_if_the_steps_held_no_others(
    method: str, run: Any, chosen: Any, kept: Any, same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient are scaled by the rows kept: cut after it they would be halved."""
    report = run("picked", online=chosen(method))
    groups = [np.array([int(row[1:]) for row in rows]) for rows in kept("picked")]
    monkeypatch.setattr(job, "steps", lambda n, **_: groups)
    plain = run("cut before")
    assert same("picked", "cut before")
    for one, other in zip(plain["history"], report["history"], strict=True):
        assert (one["loss"], one["grad_norm"]) == (other["loss"], other["grad_norm"])


def test_packed_and_padded_steps_keep_the_same_rows(run: Any, chosen: Any, kept: Any) -> None:
    reports = [
        run(packing, packing=packing, online=chosen("uds"))
        for packing in ("best_fit", "dynamic", "none")
    ]
    assert kept("best_fit") == kept("dynamic") == kept("none")
    for found in reports[1:]:
        losses = [[e["loss"] for e in r["history"]] for r in (found, reports[0])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_short_last_step_keeps_its_share(run: Any, chosen: Any, kept: Any) -> None:
    report = run("a", rows_per_step=18, online=chosen("max_loss", keep=0.25))
    assert [len(rows) for rows in kept("a")] == [5, 5, 1]  # of 18, 18 and 4
    assert [e["online"]["candidate_rows"] for e in report["history"]] == [18, 18, 4]


@pytest.mark.parametrize("method", ["max_loss", "uds", "random"])
def test_rows_compete_within_their_group(method: str, run: Any, chosen: Any, picks: Any) -> None:
    block = {**chosen(method), "group": 3}
    report = run("a", online=block, max_steps=2)
    log = picks("a").to_pydict()
    assert report["online"]["group"] == 3
    for step in (1, 2):
        at = [i for i, s in enumerate(log["step"]) if s == step]
        for group, count in ((at[:3], 2), (at[3:6], 2), (at[6:], 1)):  # a half, rounded up
            order = sorted(group, key=lambda i: -log["total"][i])
            assert [log["kept"][i] for i in order] == [True] * count + [False] * (
                len(group) - count
            )
    if method == "uds":  # the first group knows no queue, the second that of the first
        assert log["diversity"][:3] == [0, 0, 0] and min(log["diversity"][3:6]) > 0


def test_the_amortised_scheduler_of_bds_learns_from_hidden_states(
    run: Any, chosen: Any, tmp_path: Path
) -> None:
    report = run("a", online=chosen("bds", keep=1, scheduler="amortised"), max_steps=3)
    weight = pq.read_table(tmp_path / "a" / ROWS)["weight"].to_numpy()
    groups = steps(40, epochs=1, rows_per_step=8, max_steps=3, seed=3)
    # Rows of the first step were seen before v moved; those of later steps differ among themselves.
    later, unseen = np.concatenate(groups[1:]), np.setdiff1d(np.arange(40), np.concatenate(groups))
    assert len(np.unique(weight[later])) == 16 and len(np.unique(weight[unseen])) == 1
    assert 20 < report["online"]["effective_rows"] < 40


def silenced(examples: Examples, rows: list[int]) -> Examples:
    """The examples, some of them without a trained token."""
    labelled = examples.labelled.copy()
    for row in rows:
        labelled[examples.indptr[row] : examples.indptr[row + 1]] = False
    return Examples(
        examples.ids, labelled, examples.indptr, examples.weight, examples.row_id, {}, 0
    )


@pytest.mark.parametrize("method", ["random", "uds", "max_loss", "bds"])
def test_rows_without_a_trained_token_are_never_picked(
    method: str, run: Any, chosen: Any, kept: Any, picks: Any, table: Any, sums: Any, tokenizer: Any
) -> None:
    examples = prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)
    groups = steps(40, epochs=1, rows_per_step=8, max_steps=None, seed=3)
    empty = [*groups[1].tolist(), *groups[2][:6].tolist()]
    report = run("a", rows=silenced(examples, empty), online=chosen(method))
    found = kept("a")
    assert found[2] == sorted(found[2], key=lambda r: groups[2].tolist().index(int(r[1:])))
    assert {int(row[1:]) for row in found[2]} == set(groups[2][6:].tolist())
    # A step with no row to pick passes as it is, and trains nothing but the trusted rows of bds.
    assert len(found[1]) == 8 and report["online"]["uncut"] == 1
    assert report["history"][1]["online"]["fragile"] == 0
    assert (report["history"][1]["loss"] == 0) == (method != "bds")
    if method == "uds":
        assert [e["online"]["queued"] for e in report["history"]] == [4, 4, 6, 8, 8]


def test_a_reference_column_and_the_model_it_comes_from_pick_alike(
    run: Any, chosen: Any, kept: Any, table: Any, sums: Any, tiny: Model
) -> None:
    run("model", online=chosen("rho_loss"))
    run("loss", online=chosen("max_loss"))
    # Against itself only what was learned so far counts, so the picks are others.
    assert kept("model") != kept("loss")
    constant = table(sums).append_column("reference_loss", pa.array([2.0] * 40))
    run("column", rows=constant, online=chosen("rho_loss"))
    assert kept("column") == kept("loss")
    row = kept("loss")[0][0]
    lost = [None if f"r{i:03d}" == row else 2.0 for i in range(40)]
    run("null", rows=table(sums).append_column("reference_loss", pa.array(lost)),
        online=chosen("rho_loss"))  # fmt: skip
    assert row not in kept("null")[0]


def test_what_a_rule_needs_is_asked_for(
    run: Any, chosen: Any, table: Any, sums: Any, tiny: Model, tiny_lm: Any
) -> None:
    with pytest.raises(DataError, match=r"longest row has .* raise tune.online.options.max_length"):
        run("long", online=chosen("uds", max_length=20))
    with pytest.raises(RecipeError, match="bds trains with trusted rows"):
        run("unsafe", online=chosen("bds"), given=Given(reference=tiny))
    with pytest.raises(RecipeError, match="rho_loss needs a reference model"):
        run("none", online=chosen("rho_loss"), given=Given(table(sums)))
    other = Model(path=str(tiny_lm()), prompt_style="chat")
    with pytest.raises(RecipeError, match="another tokenizer"):
        run("other", online=chosen("rho_loss"), given=Given(reference=other))
