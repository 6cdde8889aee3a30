"""TAID: its ramp against the vector, its loss by hand, resume, processes, refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import RecipeError, TamisError
from tamis.language.load import load_model
from tamis.recipe import Model, Tune
from tamis.trainer import loss
from tamis.trainer.data import prepare, steps
from tamis.trainer.given import NOTHING, Given
from tamis.trainer.objectives import build, check_teacher
from tamis.trainer.objectives.taid import Ramp, Taid
from tamis.trainer.tune import tune

WEIGHTS = [0.5 + i % 3 for i in range(40)]


def asked(**options: Any) -> Taid:
    made = build("taid", options)
    assert isinstance(made, Taid)
    return made


@pytest.fixture(scope="module")
def teacher(tiny: Model, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A wider model that knows three spare tokens more than the tokenizer has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("teacher")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(path=str(folder), prompt_style="chat")


@pytest.fixture
def run(
    tiny: Model, teacher: Model, table: Any, sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    def start(
        folder: str,
        *,
        stop_at: int | None = None,
        by: Given | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        block = {
            "method": "lora",
            "options": {"rank": 4},
            "learning_rate": 0.01,
            "rows_per_step": 8,
            "batch_tokens": 128,
            "save_every": 1,
            "warmup": 0,
            "objective": {"method": "taid", "options": {"alpha": 0.5, "beta": 0.5}},
            **given,
        }
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums, WEIGHTS),
            tiny,
            Tune.model_validate(block),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(stop_at=stop_at),
            given=Given(teacher=teacher) if by is None else by,
        )

    return start


def test_the_ramp_is_that_of_the_vector(vectors: Callable[[str], Path]) -> None:
    with np.load(vectors("trainer") / "taid_schedule.npz", allow_pickle=False) as case:
        ramp = Ramp(
            asked(
                start=float(case["t_start"]),
                end=float(case["t_end"]),
                alpha=float(case["alpha"]),
                beta=float(case["beta"]),
            )
        )
        for step, (value, wanted) in enumerate(zip(case["losses"], case["t_after"], strict=True)):
            ramp.advance(float(value), step, int(case["num_steps"]))
            assert ramp.t == pytest.approx(float(wanted), abs=1e-9)


def test_momentum_carries_t_ahead_of_the_line_by_hand() -> None:
    ramp = Ramp(asked(start=0.2, end=0.9, alpha=0.5, beta=0.75))
    ramp.advance(4.0, 0, 1000)
    assert ramp.t == 0.2
    ramp.advance(1.0, 1, 1000)  # the loss fell by three quarters of itself
    first = 0.25 * 0.75
    one = 0.2 + 0.5 / (1 + math.exp(-first)) * 0.8
    assert ramp.t == pytest.approx(one, abs=1e-12)
    ramp.advance(2.0, 2, 1000)  # and doubled
    second = 0.75 * first + 0.25 * -1.0
    two = one + 0.5 / (1 + math.exp(-second)) * (1 - one)
    assert ramp.t == pytest.approx(two, abs=1e-12)
    ramp.advance(1e9, 3, 1000)  # a loss that leaps up stops it, and never turns it back
    assert ramp.t == two
    for step in range(4, 40):
        ramp.momentum = 9.0
        ramp.advance(1.0, step, 1000)
        assert two < ramp.t <= 0.9
    assert ramp.t == 0.9


def by_hand(
    tiny: Model, teacher: Model, rows: Any, t: float, *, cross_entropy: bool = False
) -> tuple[float, float]:
    """The loss of the first step in float64, row by row, and its unweighted mean."""
    import torch

    lm, other = load_model(tiny, "cpu"), load_model(teacher, "cpu")
    sums = np.zeros(3)
    for i in steps(40, epochs=1, rows_per_step=8, max_steps=1, seed=3)[0]:
        ids, labels = (torch.from_numpy(a) for a in rows.row(i))
        with torch.inference_mode():
            now, told = (m(input_ids=ids[None]).logits[0, :-1].double() for m in (lm, other))
        told = told[:, : now.shape[1]]
        at = (labels[1:] != -100).nonzero()[:, 0]
        wanted = ((1 - t) * now + t * told).softmax(-1)[at]
        cost = -(wanted * now.log_softmax(-1)[at]).sum(-1)
        if not cross_entropy:
            cost += (wanted * wanted.log()).sum(-1)
        sums += [float(rows.weight[i] * cost.sum()), rows.weight[i] * len(at), float(cost.sum())]
    targets = sum(rows.targets()[steps(40, epochs=1, rows_per_step=8, max_steps=1, seed=3)[0]])
    return sums[0] / sums[1], sums[2] / targets


@pytest.mark.parametrize(
    ("options", "t"),
    [
        ({}, 0.4),
        ({"start": 1.0}, 1.0),
        ({"start": 0.0}, 0.0),
        ({"loss": "cross_entropy", "start": 0.7}, 0.7),
    ],
)
def test_the_first_loss_by_hand(
    run: Any,
    tiny: Model,
    teacher: Model,
    table: Any,
    sums: Any,
    tokenizer: Any,
    options: Any,
    t: Any,
) -> None:
    rows = prepare(table(sums, WEIGHTS), tokenizer, prompt_style="chat", max_length=256)
    crossed = "loss" in options
    wanted, _ = by_hand(tiny, teacher, rows, t, cross_entropy=crossed)
    _, kl = by_hand(tiny, teacher, rows, t)
    for packing in ("best_fit", "none"):
        objective = {"method": "taid", "options": options}
        report = run(packing, packing=packing, max_steps=2, objective=objective)
        first = report["history"][0]
        assert first["loss"] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        assert first["kl"] == pytest.approx(kl, rel=1e-5, abs=1e-6)
        assert first["t"] == t


def test_a_teacher_in_bfloat16(run: Any, teacher: Model) -> None:
    """Rows are packed for it as for one in float32, which it is tried in."""
    half = teacher.model_copy(update={"dtype": "bfloat16"})
    found = run("half", max_steps=1, by=Given(teacher=half))["history"][0]["loss"]
    assert found == pytest.approx(run("whole", max_steps=1)["history"][0]["loss"], rel=0.05)
    assert found != run("again", max_steps=1)["history"][0]["loss"]


def test_t_follows_the_losses_however_steps_are_cut(run: Any) -> None:
    logs = {}
    for tokens in (64, 4096):
        report = run(str(tokens), batch_tokens=tokens)
        ramp = Ramp(asked(alpha=0.5, beta=0.5))
        for step, entry in enumerate(report["history"]):
            assert entry["t"] == pytest.approx(ramp.t, abs=1e-6)
            ramp.advance(entry["loss"], step, report["steps"])
        logs[tokens] = [(e["t"], e["loss"]) for e in report["history"]]
    np.testing.assert_allclose(logs[64], logs[4096], rtol=1e-4)
    assert len({t for t, _ in logs[64]}) > 3  # it moves


def test_the_model_comes_to_agree_with_its_teacher(run: Any) -> None:
    objective = {"method": "taid", "options": {"start": 1.0}}
    history = run("kd", objective=objective, method="full", options={}, epochs=4)["history"]
    assert all(entry["t"] == 1.0 for entry in history)
    assert history[-1]["kl"] < 0.7 * history[0]["kl"]


def test_a_stopped_run_ends_with_the_same_bits(run: Any, weights_of: Any, tmp_path: Path) -> None:
    given = {"method": "full", "options": {}, "learning_rate": 0.003}
    whole = run("whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=3, **given)
    report = run("cut", **given)
    assert report["resumed_from_step"] == 2
    assert report["history"] == whole["history"]
    one, other = (weights_of(tmp_path / f / "model") for f in ("whole", "cut"))
    assert all((one[k] == other[k]).all() for k in one)


def test_a_run_belongs_to_its_teacher(
    run: Any, tiny: Model, teacher: Model, tmp_path: Path
) -> None:
    one = run("one", max_steps=1)
    moved = teacher.model_copy(update={"path": str(shutil.copytree(teacher.path, tmp_path / "t"))})
    assert run("moved", max_steps=1, by=Given(teacher=moved))["identity"] == one["identity"]
    assert run("self", max_steps=1, by=Given(teacher=tiny))["identity"] != one["identity"]
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=2)
    with pytest.raises(TamisError, match="checkpoints of a run on other data"):
        run("cut", by=Given(teacher=tiny))


def test_chunks_change_nothing_and_bound_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen = []
    plain = loss.taught_terms

    def watched(logits: Any, taught: Any, *rest: Any) -> Any:
        seen.append(len(logits))
        return plain(logits, taught, *rest)

    torch.manual_seed(0)
    logits = torch.randn(23, 11, requires_grad=True)
    taught, tokens = torch.randn(23, 9), torch.randint(11, (23,))

    def terms(*rows: Any) -> Any:
        return watched(*rows, 0.3)

    whole = loss.chunked(terms, 100, logits, taught, tokens)
    (wanted,) = torch.autograd.grad(whole[2].sum(), logits)
    seen.clear()
    parts = loss.chunked(terms, 5, logits, taught, tokens)
    (found,) = torch.autograd.grad(parts[2].sum(), logits)
    assert max(seen) == 5
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found, wanted)
    # The gradient of KL(p_t || p) with p_t fixed is p - p_t; tokens the teacher lacks have p_t 0.
    mixed = 0.7 * logits.detach()[:, :9] + 0.3 * taught
    goal = torch.nn.functional.pad(mixed.softmax(-1), (0, 2))
    torch.testing.assert_close(wanted, logits.detach().softmax(-1) - goal, atol=1e-6, rtol=1e-5)


def test_the_teacher_is_never_asked_for_more_than_a_chunk(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.trainer.objectives import teacher as module

    sizes = []
    plain = module.taught_terms

    def watched(logits: Any, taught: Any, *rest: Any) -> Any:
        sizes.append((len(logits), len(taught)))
        return plain(logits, taught, *rest)

    monkeypatch.setattr(module, "taught_terms", watched)
    monkeypatch.setitem(loss._CHUNK_VALUES, "cpu", 3200)
    run("small", max_steps=1)
    assert sizes and max(max(pair) for pair in sizes) <= 10


def test_rows_that_are_only_scored_ask_no_teacher(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.trainer.objectives.teacher import Teacher

    asked: list[int] = []
    states = Teacher.states

    def watched(self: Any, inputs: Any, row: Any, before: Any) -> Any:
        asked.append(len(row))
        return states(self, inputs, row, before)

    monkeypatch.setattr(Teacher, "states", watched)
    report = run("some", max_steps=2, online={"method": "max_loss", "keep": 0.25})
    assert sum(asked) == sum(entry["tokens"] for entry in report["history"])


def test_refusals(
    run: Any, tiny: Model, teacher: Model, tmp_path: Path, tiny_lm: Callable[..., Path]
) -> None:
    stranger = Model(path=str(tiny_lm()), prompt_style="chat")
    with pytest.raises(RecipeError, match="has another vocabulary than"):
        run("stranger", by=Given(teacher=stranger))
    with pytest.raises(RecipeError, match="another vocabulary"):
        check_teacher(stranger, tiny)
    with pytest.raises(RecipeError, match="was given none"):
        run("none", by=NOTHING)
    with pytest.raises(RecipeError, match="without method mezo"):
        run("mezo", method="mezo", options={})
    with pytest.raises(RecipeError, match="without method prompt"):
        run("prompt", method="prompt", options={}, packing="none")
    with pytest.raises(RecipeError, match="expected 0 <= start <= end"):
        asked(start=0.9, end=0.5)
    short = shutil.copytree(str(teacher.path), tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16}))
    with pytest.raises(RecipeError, match="reads 16 tokens and the longest row has"):
        run("short", by=Given(teacher=Model(path=str(short), prompt_style="chat")))
    assert not [p for p in tmp_path.rglob("checkpoints") if p.is_dir()]
