"""Objectives and noise inside the trainer: first steps by hand, resume to the bit, refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import DataError, RecipeError
from tamis.language.load import load_model, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer.data import Examples, prepare
from tamis.trainer.engine import Steps
from tamis.trainer.given import Given
from tamis.trainer.loss import terms_forward
from tamis.trainer.noise import Noise
from tamis.trainer.objectives import Course, build, course, names
from tamis.trainer.objectives.start import StartModel
from tamis.trainer.tune import tune

OPTIONS: dict[str, dict[str, Any]] = {
    "task_balanced": {"by": "group", "case": 4},
    "noisefit": {"layers": 1, "std": 0.5},
}
LORA = {"method": "lora", "options": {"rank": 4, "dropout": 0.1}, "learning_rate": 0.01}
FULL = {"method": "full", "options": {}, "learning_rate": 0.003}


@pytest.fixture
def run(tiny: Model, table: Any, sums: Any, progress: Any, tmp_path: Path) -> Callable[..., Any]:
    """Tune the tiny model for three steps in a folder under the test's own."""

    def start(folder: str, *, stop_at: int | None = None, **given: Any) -> dict[str, Any]:
        settings = {"rows_per_step": 8, "batch_tokens": 128, "save_every": 1, "max_steps": 3}
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums, [0.5 + i % 3 for i in range(len(sums))]),
            tiny,
            Tune.model_validate({**settings, **LORA, "warmup": 0, **given}),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(stop_at=stop_at),
            given=Given(teacher=tiny),
        )

    return start


def chosen(name: str) -> dict[str, Any]:
    return {"objective": {"method": name, "options": OPTIONS.get(name, {})}}


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Any, sums: Any) -> Examples:
    return prepare(table(sums), tokenizer, prompt_style="chat", max_length=256, group_by="group")


WAYS = [(name, {}) for name in names() if name != "sft"]
WAYS += [("asft", FULL), ("sft", {"noise": 5.0}), ("masked_thought", {"noise": 5.0})]


@pytest.mark.parametrize(("name", "given"), WAYS, ids=lambda w: str(w) if w else "-")
def test_a_stopped_run_ends_with_the_same_bits(
    run: Any, weights_of: Any, tmp_path: Path, name: str, given: dict[str, Any]
) -> None:
    whole = run("whole", **chosen(name), **given)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=2, **chosen(name), **given)
    report = run("cut", **chosen(name), **given)
    assert report["resumed_from_step"] == 1
    assert report["history"] == whole["history"]
    one, other = (weights_of(tmp_path / f / "model") for f in ("whole", "cut"))
    assert all((one[k] == other[k]).all() for k in one)
    assert ("kl" in report["history"][0]) == (name in ("asft", "taid"))


def test_the_divergence_starts_at_zero_and_grows(run: Any) -> None:
    for folder, method in (("lora", LORA), ("full", FULL)):
        given = {**method, "objective": {"method": "asft", "options": {"kl_weight": 0.0}}}
        report = run(folder, **given)
        kl = [entry["kl"] for entry in report["history"]]
        assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-3
        dft = run(f"{folder}-dft", **method, objective={"method": "dft"})
        for a, b in zip(report["history"], dft["history"], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
            assert a["nll"] == pytest.approx(b["nll"], rel=1e-6)


def test_the_anchor_holds_the_model(run: Any) -> None:
    loose = run("loose", objective={"method": "asft", "options": {"kl_weight": 0.0}})
    tight = run("tight", objective={"method": "asft", "options": {"kl_weight": 100.0}})
    assert tight["history"][-1]["kl"] < 0.5 * loose["history"][-1]["kl"]


def ids_of(model: Any) -> dict[str, Any]:
    import torch

    ids = torch.arange(7, 27)[None]
    labels = torch.where(ids % 3 == 0, ids, -100)
    return {"input_ids": ids, "labels": labels, "loss_weights": torch.ones(ids.shape)}


@pytest.mark.parametrize("begins", [True, "pissa"])
def test_the_start_model_stays_what_it_was(tiny: Model, begins: Any) -> None:
    """With the adapter off where that is the same, and as a copy where the adapter took a part of
    the weights; neither dropout nor what was frozen is changed by asking it."""
    import torch
    from peft import LoraConfig, get_peft_model

    lm = load_model(tiny, "cpu").requires_grad_(False)
    batch = ids_of(lm)
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return load_model(tiny, "cpu")

    start = StartModel(lm, vocabulary(tiny), load)
    lm.forward = terms_forward(lm, vocabulary(tiny), start)
    config = LoraConfig(
        r=4, lora_alpha=4, lora_dropout=0.5, init_lora_weights=begins, target_modules=["q_proj"]
    )
    trained = get_peft_model(lm, config, adapter_name="default")
    start.settle(trained)
    assert len(loads) == (begins == "pissa")
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)  # as a method may
            if "lora_" in name:
                parameter += 0.5
    trained.train()
    wanted = {n for n, p in trained.named_parameters() if p.requires_grad}
    plain = load_model(tiny, "cpu")
    plain.forward = terms_forward(plain, vocabulary(tiny))
    torch.manual_seed(0)
    one = trained(**batch)
    torch.manual_seed(0)
    other = trained(**batch)
    assert (one["kl"] == other["kl"]).all()
    assert {n for n, p in trained.named_parameters() if p.requires_grad} == wanted
    assert all(module.training for module in trained.modules())
    row, before = batch["labels"][:, 1:].ne(-100).nonzero(as_tuple=True)
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}
    states = start.states(inputs, row, before)
    with torch.no_grad():
        logits = load_model(tiny, "cpu")(input_ids=batch["input_ids"]).logits[row, before]
    torch.testing.assert_close(start.head(states), logits, rtol=1e-5, atol=1e-5)
    one["kl"].sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained.parameters())


def test_chunks_of_the_divergence_change_nothing(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[Any, Any]:
        lm = load_model(tiny, "cpu").requires_grad_(True)
        start = StartModel(lm, vocabulary(tiny), lambda: load_model(tiny, "cpu"))
        lm.forward = terms_forward(lm, vocabulary(tiny), start)
        start.settle(lm)
        moved = next(p for n, p in lm.named_parameters() if "q_proj" in n)
        moved.data += 0.3
        terms = lm(**ids_of(lm))
        (terms["kl"] + terms["nll"]).sum().backward()
        return terms["kl"].detach(), copy.deepcopy(moved.grad)

    whole = found()
    monkeypatch.setitem(__import__("tamis.trainer.loss", fromlist=["x"])._CHUNK_VALUES, "cpu", 700)
    for a, b in zip(whole, found(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def settled(tokenizer: Any, steps: int = 10, seed: int = 0) -> Course:
    return course(tokenizer, "chat", seed, steps)


def test_masked_thought_replaces_answers_only(examples: Examples, tokenizer: Any) -> None:
    objective = build("masked_thought", {"rate": 0.5, "warmup": 0.0})
    run = settled(tokenizer)
    shown = objective.rows(examples, 0, run)
    changed = shown.shown != examples.ids
    assert not changed[~examples.labelled].any()
    assert not changed[examples.indptr[:-1]].any()
    share = changed.sum() / examples.labelled.sum()
    assert share == pytest.approx(0.5, abs=0.1)
    special = {
        *tokenizer.all_special_ids,
        *tokenizer.convert_tokens_to_ids(["<|user|>", "<|end|>"]),
    }
    assert special and not special & {*shown.shown[changed].tolist()}
    assert len({*shown.shown[changed].tolist()}) > 50
    for i in range(len(examples)):
        assert (shown.row(i)[1] == examples.row(i)[1]).all()
    masked = build("masked_thought", {"rate": 0.5, "warmup": 0.0, "token": "<pad>"})
    pads = masked.rows(examples, 0, run)
    assert {*pads.shown[pads.shown != examples.ids].tolist()} == {tokenizer.pad_token_id}


def test_what_is_masked_hangs_on_seed_row_and_step_alone(
    examples: Examples, tokenizer: Any
) -> None:
    objective = build("masked_thought", {"rate": 0.4, "warmup": 0.0})

    def shown(rows: list[int], step: int = 1, seed: int = 0) -> list[list[int]]:
        part = examples.take(np.array(rows))
        made = objective.rows(part, step, settled(tokenizer, seed=seed))
        return [made.row(i)[0].tolist() for i in range(len(rows))]

    want = shown([3, 7, 9])
    assert shown([9, 3]) == [want[2], want[0]]
    assert shown([3, 7, 9], step=2) != want and shown([3, 7, 9], seed=1) != want


def test_the_rate_of_masks_warms_up() -> None:
    objective: Any = build("masked_thought", {"rate": 0.4, "warmup": 0.5})
    rates = [objective.rate_at(step, 8) for step in range(8)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])


def test_groups_come_from_the_rows(run: Any, tokenizer: Any, table: Any, sums: Any) -> None:
    with pytest.raises(DataError, match="no column 'task'"):
        run("none", objective={"method": "task_balanced", "options": {"by": "task"}})
    given = {"by": "group", "weights": {"even": 1.0}}
    with pytest.raises(DataError, match="must name every group"):
        run("odd", objective={"method": "task_balanced", "options": given})


def test_balanced_first_loss_by_hand(
    run: Any, tiny: Model, table: Any, sums: Any, tokenizer: Any
) -> None:
    import torch

    from tamis.trainer.data import steps

    weights = [0.5 + i % 3 for i in range(len(sums))]
    rows = prepare(
        table(sums, weights), tokenizer, prompt_style="chat", max_length=256, group_by="group"
    )
    lm = load_model(tiny, "cpu")
    sums_of: dict[str, list[float]] = {}
    for i in steps(40, epochs=1, rows_per_step=8, max_steps=1, seed=3)[0]:
        ids, labels = (torch.from_numpy(a) for a in rows.row(i))
        with torch.inference_mode():
            logp = torch.log_softmax(lm(input_ids=ids[None]).logits[0, :-1], dim=-1)
        at = (labels[1:] != -100).nonzero()[:, 0]
        mean = -float(logp[at, labels[1:][at]].mean())
        part = sums_of.setdefault((rows.group or [])[i], [0.0, 0.0])
        part[0] += rows.weight[i] * mean
        part[1] += rows.weight[i]
    shares = {"even": 3.0, "odd": 1.0}
    want = sum(shares[g] * top / low for g, (top, low) in sums_of.items()) / 4
    given = {"by": "group", "case": 4, "weights": shares}
    for packing in ("best_fit", "none"):
        options = {"options": {"rank": 4}, "packing": packing}
        report = run(packing, **options, objective={"method": "task_balanced", "options": given})
        assert report["history"][0]["loss"] == pytest.approx(want, rel=1e-5)


def batches(examples: Examples, **given: Any) -> list[dict[str, Any]]:
    options = Tune.model_validate({"noise": 3.0, "batch_tokens": 2048, **given})
    rows = np.arange(6)
    return Steps(examples, [rows], options, "cpu", Course(seed=0, steps=1))[0]["micro"]


def test_noise_is_that_of_the_row_however_it_is_batched(tiny: Model, examples: Examples) -> None:
    import torch

    lm = load_model(tiny, "cpu").train()
    noise = Noise(3.0).upon(lm)
    embed, width = lm.get_input_embeddings(), lm.config.hidden_size
    found: list[dict[int, Any]] = []
    for packing in ("best_fit", "none"):
        seen: dict[int, Any] = {}
        for batch in batches(examples, packing=packing):
            plain = embed(batch["input_ids"])
            with noise.of(batch):
                added = embed(batch["input_ids"]) - plain
            covered = torch.zeros(added.shape[:2], dtype=torch.bool)
            for row, (line, start, end) in zip(
                batch["rows"].tolist(), batch["spans"].tolist(), strict=True
            ):
                seen[row] = added[line, start:end].detach()
                covered[line, start:end] = True
            assert (added[~covered] == 0).all()
        found.append(seen)
    for row, one in found[0].items():
        torch.testing.assert_close(one, found[1][row], rtol=0, atol=1e-6)
        bound = 3.0 / math.sqrt(int(examples.lengths[row]) * width)
        assert 0.95 * bound < float(one.abs().max()) <= bound * 1.001
        assert float(one.mean()) == pytest.approx(0, abs=0.1 * bound)
    first = batches(examples)[0]
    with noise.of(first):
        lm.eval()
        assert (embed(first["input_ids"]) == embed.weight[first["input_ids"]]).all()


def test_noise_changes_the_loss_and_not_the_evaluation(run: Any) -> None:
    plain, noisy = run("plain"), run("noisy", noise=10.0)
    assert plain["history"][0]["nll"] != noisy["history"][0]["nll"]


def test_refusals(run: Any) -> None:
    prompts = {"method": "prompt", "options": {}, "packing": "none"}
    with pytest.raises(RecipeError, match="no virtual tokens"):
        run("virtual", **{**LORA, **prompts}, objective={"method": "asft"})
    with pytest.raises(RecipeError, match="no objective 'sfd'"):
        run("typo", objective={"method": "sfd"})


def test_noisy_terms_by_hand() -> None:
    import torch
    from torch.nn.functional import kl_div

    from tamis.trainer.loss import noisy_terms

    torch.manual_seed(0)
    clean, one, two = (torch.randn(5, 11, dtype=torch.float64) for _ in range(3))
    tokens = torch.tensor([3, 0, 10, 4, 4])
    nll, _, soft, consistency = noisy_terms(clean, one, two, tokens, 2.0)
    logs = [x.float().log_softmax(-1) for x in (one, two)]
    wanted = (clean.float() / 2).softmax(-1)
    near = [kl_div(x, wanted, reduction="none").sum(-1) for x in logs]
    torch.testing.assert_close(soft, (near[0] + near[1]) / 2)
    apart = kl_div(logs[0], logs[1].exp(), reduction="none").sum(-1)
    torch.testing.assert_close(consistency, apart)
    cost = build("noisefit", {"share": 0.25, "consistency": 0.5}).cost(
        {"nll": nll, "soft": soft, "consistency": consistency}
    )
    torch.testing.assert_close(cost, 0.25 * nll + 0.75 * soft + 0.5 * consistency)


def test_noisefit_of_a_row_hangs_on_no_other(tiny: Model, examples: Examples) -> None:
    """Packed or padded, a row's terms are the same; evaluation has no noise; little noise, none."""
    import torch

    from tamis.trainer.block_noise import BlockNoise

    def start(std: float) -> Any:
        lm = load_model(tiny, "cpu")
        asked: Any = build("noisefit", {"layers": 1, "std": std})
        first = [{"input_ids": torch.from_numpy(examples.row(i)[0])[None]} for i in range(8)]
        noise = BlockNoise(lm, lambda rows, at_once: iter(first), asked)
        lm.forward = terms_forward(lm, vocabulary(tiny), noisy=noise)
        return lm.train(), noise

    lm, noise = start(0.5)
    assert len(noise.chosen) == 1
    options: dict[str, Any] = {"objective": {"method": "noisefit"}, "noise": 0.0}
    found = []
    for packing in ("best_fit", "none"):
        seen: dict[int, Any] = {}
        for batch in batches(examples, packing=packing, **options):
            terms = lm(**batch)
            for row, (line, start_at, end) in zip(
                batch["rows"].tolist(), batch["spans"].tolist(), strict=True
            ):
                labels = batch["labels"]
                at = (labels[:, 1:] != -100).nonzero()
                mine = (at[:, 0] == line) & (at[:, 1] >= start_at) & (at[:, 1] < end - 1)
                seen[row] = torch.stack([terms["soft"][mine], terms["consistency"][mine]])
        found.append(seen)
    for row, one in found[0].items():
        torch.testing.assert_close(one, found[1][row], rtol=1e-3, atol=1e-5)
        assert (one.mean(dim=1) > 1e-3).all()
    batch = batches(examples, **options)[0]
    assert "soft" not in lm.eval()(**batch)
    quiet_lm, _ = start(1e-6)
    assert float(quiet_lm(**batch)["soft"].detach().abs().max()) < 1e-6


def test_noisefit_refuses_what_it_cannot_noise(run: Any) -> None:
    for method, given in (("prompt", {"packing": "none"}), ("mezo", {})):
        with pytest.raises(RecipeError, match=f"use it without method {method}"):
            run(method, **{**LORA, "method": method, "options": {}, **given}, **chosen("noisefit"))
    with pytest.raises(RecipeError, match="the model has 2 of them"):
        run("many", objective={"method": "noisefit", "options": {"layers": 3}})
