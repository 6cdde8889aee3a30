"""What every tuning method must do, for every one that is registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.recipe import Model, Tune
from tamis.trainer import methods
from tamis.trainer import tune as tuning
from tamis.trainer.data import Examples, prepare

# Options that fit a model of two layers of width 32; a method that is not here has its own.
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "dropout": 0.1},
    "adalora": {"rank": 4, "target_rank": 2, "first": 0.0, "last": 0.25},
    "vera": {"rank": 8},
    "shira": {"rank": 4},
    "prompt": {"tokens": 3},
    "prefix": {"tokens": 3},
    "p_tuning": {"tokens": 3, "width": 16},
    "cpt": {"examples": 2, "epsilon": 3.0},
    "lisa": {"layers": 1, "interval": 2},
    "lift": {"rank": 4, "filter_rank": 8, "interval": 2},
    "s2ft": {"down_proj": 0.1, "up_proj": 0.1, "o_proj": 0.5, "v_proj": 0.5},
    "spiel": {"density": 0.1, "interval": 3, "accumulation": 1, "rate": 0.8},
    "lora_sb": {"rank": 4, "rows": 8},
    "lora_xs": {"rank": 4},
    "trainable_tokens": {"ids": [5, 40, 41, 42]},
}
# Further forms of a method.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora-dora": ("lora", {"rank": 4, "dora": True, "rslora": True}),
    "lora-pissa": ("lora", {"rank": 4, "init": "pissa", "rslora": True}),
    "lora-olora": ("lora", {"rank": 4, "alpha": 4.0, "init": "olora"}),
    "lora-orthogonal": ("lora", {"rank": 4, "init": "orthogonal"}),
    "lora-eva": ("lora", {"rank": 4, "init": "eva", "init_rows": 16}),
    "lora-corda": ("lora", {"rank": 4, "init": "corda", "init_rows": 16}),
    "lora-corda-kpm": ("lora", {"rank": 4, "init": "corda", "corda_mode": "kpm"}),
    "lora-ga": ("lora", {"rank": 4, "init": "lora_ga", "init_rows": 16}),
    "lora-plus": ("lora", {"rank": 4, "plus_ratio": 16.0}),
    "lora-fa": ("lora", {"rank": 4, "freeze_a": True}),
    "lora-some": ("lora", {"rank": 4, "layers": [1], "trainable_tokens": [5, 40]}),
    "hft-epochs": ("hft", {"redraw": "epoch"}),
    "prefix-wide": ("prefix", {"tokens": 3, "width": 16}),
    "lift-once": ("lift", {"rank": 4, "filter_rank": 8, "interval": None}),
    "lift-lowrank": ("lift", {"rank": 4, "filter_rank": 4, "interval": 3, "svd": "lowrank"}),
    "spiel-sm3": ("spiel", {"density": 0.1, "interval": 3, "accumulation": 1, "grow": "sm3"}),
    "mezo-lora": ("mezo", {"over": "lora", "rank": 4}),
    "prompt-noise": ("prompt", {"tokens": 3, "init": "random"}),
}
CASES = {
    **{n: (n, SMALL.get(n, dict(methods.get(n).example))) for n in methods.names()},
    **FORMS,
}
ALL = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    return prepare(table(sums[:24]), tokenizer, prompt_style="chat", max_length=256)


class Run:
    """One run, and what it looked like before its first step and at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.grad: set[str] = set()
        self.logits: Any = None
        self.report: dict[str, Any] = {}
        build, save = tuning.engine.build, tuning._save

        def built(trained: Any, *args: Any, **given: Any) -> Any:
            self.before = {n: p.detach().clone() for n, p in state(trained).items()}
            self.grad = {n for n, p in trained.named_parameters() if p.requires_grad}
            return build(trained, *args, **given)

        def saved(job: Any, lm: Any, trained: Any) -> None:
            self.after = {n: p.detach().clone() for n, p in state(trained).items()}
            self.logits = logits(trained)
            save(job, lm, trained)

        monkeypatch.setattr(tuning.engine, "build", built)
        monkeypatch.setattr(tuning, "_save", saved)


def state(trained: Any) -> dict[str, Any]:
    return dict(trained.named_parameters())


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        # Virtual tokens give logits of their own, before those of the row.
        return model.eval()(input_ids=torch.arange(5, 45)[None]).logits[:, -40:]


def plain(kind: str, base: Model, folder: Path) -> Any:
    """The saved model by peft or transformers alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if kind == "full":
        return AutoModelForCausalLM.from_pretrained(folder)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), folder)


@pytest.fixture
def start(
    examples: Examples,
    tiny: Model,
    progress: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Run]:
    """Tune the tiny model by a case for four steps."""

    def run(case: str, folder: str = "run", *, bar: Any = None, **given: Any) -> Run:
        name, options = CASES[case]
        packing = "best_fit" if methods.get(name).packable else "none"
        block = {"method": name, "options": options, "packing": packing, "warmup": 0}
        chosen = {"rows_per_step": 6, "save_every": 2, "learning_rate": 1e-3, **block, **given}
        (tmp_path / folder).mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            seen = Run(patch)
            seen.report = tuning.tune(
                examples,
                tiny,
                Tune.model_validate(chosen),
                seed=3,
                device="cpu",
                folder=tmp_path / folder,
                say=lambda line: None,
                progress=bar or progress(),
            )
        return seen

    return run


def near(one: Any, other: Any) -> bool:
    """Equal to a millionth of the range of the values."""
    return bool((one - other).abs().max() <= 1e-6 * (other.max() - other.min()))


@ALL
def test_saves_what_it_trained_and_trains_what_it_says(
    start: Any, tiny: Model, tmp_path: Path, case: str
) -> None:
    run = start(case, weight_decay=0.1)
    kind = methods.build(*CASES[case])
    assert near(logits(plain(kind.kind, tiny, tmp_path / "run" / "model")), run.logits)
    moved = {n for n in run.before if not (run.before[n] == run.after[n]).all()}
    assert moved and moved <= run.grad
    base = logits(plain("full", tiny, Path(str(tiny.path))))
    assert float((run.logits - base).abs().max()) > 1e-4
    counted = sum(run.before[n].numel() for n in run.grad)
    if type(kind).trainable is methods.Method.trainable:
        assert run.report["trainable_parameters"] == counted
    size = sum(p.numel() for p in plain("full", tiny, Path(str(tiny.path))).parameters())
    assert run.report["trainable_share"] == run.report["trainable_parameters"] / size > 0
    assert json.loads(json.dumps(run.report["method_facts"])) == run.report["method_facts"]


@ALL
def test_a_stopped_run_ends_with_the_same_bits(
    start: Any, progress: Any, weights_of: Any, tmp_path: Path, case: str
) -> None:
    start(case, "whole")
    with pytest.raises(KeyboardInterrupt):
        start(case, "cut", bar=progress(stop_at=3))
    again = start(case, "cut")
    assert again.report["resumed_from_step"] == 2
    one, other = (tmp_path / f / "model" for f in ("whole", "cut"))
    tensors = weights_of(one), weights_of(other)
    assert tensors[0].keys() == tensors[1].keys()
    assert all((tensors[0][k] == tensors[1][k]).all() for k in tensors[0])
    for path in one.glob("*config.json"):
        assert json.loads(path.read_text()) == json.loads((other / path.name).read_text())


@ALL
def test_it_starts_at_the_model_as_it_came(
    start: Any, tiny: Model, tmp_path: Path, case: str
) -> None:
    kind = methods.build(*CASES[case])
    if not kind.exact_start:
        pytest.skip("starts elsewhere by design")
    run = start(case, learning_rate=1e-30, rows_per_step=24, epochs=3)
    base = logits(plain("full", tiny, Path(str(tiny.path))))
    assert near(run.logits, base)
    assert near(logits(plain(kind.kind, tiny, tmp_path / "run" / "model")), base)


def test_a_term_of_the_methods_own_is_trained_on(
    start: Any, weights_of: Any, tmp_path: Path
) -> None:
    """AdaLoRA's: twice the weight adds twice as much to the loss, and gives other parameters."""
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        options = {**SMALL["adalora"], "orthogonality": weight}
        report = start("adalora", str(weight), options=options).report
        losses[weight] = report["history"][0]["loss"]
        assert report["history"][0]["nll"] == pytest.approx(losses[0.0], rel=1e-5)
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * (losses[1.0] - losses[0.0]), rel=1e-3)
    assert losses[1.0] > losses[0.0]
    one, other = (weights_of(tmp_path / f / "model") for f in ("0.0", "2.0"))
    assert any(one[k].shape != other[k].shape or not (one[k] == other[k]).all() for k in one)
