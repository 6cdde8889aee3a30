"""Tuning from a table to a folder: reload, resume, refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis import recipe
from tamis.errors import DataError, RecipeError, TamisError
from tamis.language.load import load_model
from tamis.language.render import prompt, render
from tamis.recipe import Model, Tune
from tamis.trainer.data import Examples, prepare
from tamis.trainer.tune import tune

LORA = {"method": "lora", "options": {"rank": 4, "dropout": 0.1}, "learning_rate": 0.01}
FULL = {"method": "full", "options": {}, "learning_rate": 0.003}


@pytest.fixture
def run(
    tiny: Model, table: Callable[..., pa.Table], sums: Any, progress: Any, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Tune the tiny model on the sums in a folder under the test's own."""

    def start(
        folder: str = "run",
        *,
        rows: pa.Table | None = None,
        model: Model = tiny,
        bar: Any = None,
        seed: int = 3,
        say: Callable[[str], None] = lambda line: None,
        **given: Any,
    ) -> dict[str, Any]:
        settings = {"rows_per_step": 8, "batch_tokens": 128, "save_every": 2, **LORA, **given}
        (tmp_path / folder).mkdir(exist_ok=True)
        return tune(
            table(sums) if rows is None else rows,
            model,
            Tune.model_validate(settings),
            seed=seed,
            device="cpu",
            folder=tmp_path / folder,
            say=say,
            progress=bar or progress(),
        )

    return start


def test_the_example_of_large_batches_trains_at_one_low_rate_on_all_rows_at_once(
    run: Any, sums: Any
) -> None:
    loaded = recipe.load(Path(__file__).parents[2] / "examples" / "large_batch.yaml")
    assert loaded.tune is not None and loaded.select is not None
    assert loaded.select.budget.percent == 100 and loaded.tune.rows_per_step >= 3840
    block = loaded.tune.model_dump(exclude={"model"}, exclude_unset=True)
    block |= {"options": {}, "batch_tokens": 128}
    report = run(**block)
    assert report["steps"] == 1 and report["rows_seen"] == 3 * len(sums)
    # Of as many rows a step as there are, to see that the rate neither rises nor falls.
    report = run("small", **{**block, "rows_per_step": len(sums)})
    assert [entry["learning_rate"] for entry in report["history"]] == [1e-5] * 3
    assert report["early"]["steps"] == 1 and report["early"]["grad_norm"] > 0


def logits(model: Any, tokenizer: Any, messages: Any) -> Any:
    import torch

    ids = render(messages, None, tokenizer, prompt_style="chat").ids
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def test_an_adapter_reloads_by_plain_peft(
    run: Any, tiny: Model, sums: Any, tmp_path: Path, tokenizer: Any
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer, GenerationConfig

    report = run()
    folder = tmp_path / "run" / "model"
    plain = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    ours = load_model(tiny.model_copy(update={"adapter": str(folder)}), "cpu")
    saved = AutoTokenizer.from_pretrained(folder)
    assert saved.chat_template == tokenizer.chat_template
    found = logits(plain, saved, sums[0])
    assert (found == logits(ours, tokenizer, sums[0])).all()
    base = logits(load_model(tiny, "cpu"), tokenizer, sums[0])
    assert float((found - base).abs().max()) > 0.1
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends == sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")])
    assert report["last_nll"] < report["first_nll"]


def test_full_weights_reload_by_plain_transformers(
    run: Any, tiny: Model, sums: Any, tmp_path: Path, tokenizer: Any
) -> None:
    from transformers import AutoModelForCausalLM

    report = run(**FULL, epochs=2)
    folder = tmp_path / "run" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    given = tiny.model_copy(update={"path": str(folder)})
    ours = logits(load_model(given, "cpu"), tokenizer, sums[0])
    assert (logits(model, tokenizer, sums[0]) == ours).all()
    assert model.generation_config.eos_token_id == [0, 2]
    assert report["last_nll"] < 0.8 * report["first_nll"]
    assert not (folder / "adapter_config.json").exists()


def test_the_first_loss_is_that_of_the_untuned_model(
    run: Any, tiny: Model, sums: Any, tokenizer: Any
) -> None:
    """Loss of step 1 by hand, at the weights the model came with."""
    import torch

    from tamis.trainer.data import steps

    report = run(options={"rank": 4})
    model = load_model(tiny, "cpu")
    total, count = 0.0, 0
    for i in steps(40, epochs=1, rows_per_step=8, max_steps=1, seed=3)[0]:
        row = render(sums[i], None, tokenizer, prompt_style="chat")
        ids = torch.tensor(row.ids)
        with torch.inference_mode():
            logp = torch.log_softmax(model(input_ids=ids[None]).logits[0], dim=-1)
        for at in [j for j, on in enumerate(row.labelled) if on]:
            total -= float(logp[at - 1, ids[at]])
            count += 1
    assert report["history"][0]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert report["history"][0]["tokens"] == count


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_run_ends_with_the_same_bits(
    run: Any, progress: Any, weights_of: Any, tmp_path: Path, stop: int, method: str
) -> None:
    given = LORA if method == "lora" else FULL
    whole = run("whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run("cut", **given, bar=progress(stop_at=stop))
    bar = progress()
    report = run("cut", **given, bar=bar)
    assert report["resumed_from_step"] == (stop - 1) // 2 * 2
    assert sum(bar.calls) == bar.total == 40
    one, other = (weights_of(tmp_path / f / "model") for f in ("whole", "cut"))
    assert one.keys() == other.keys() and all((one[k] == other[k]).all() for k in one)
    assert report["history"] == whole["history"]
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_checkpoint_cut_off_while_written_does_not_count(
    run: Any, progress: Any, weights_of: Any, tmp_path: Path
) -> None:
    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", bar=progress(stop_at=5))
    (tmp_path / "cut" / "checkpoints" / "checkpoint-4" / "complete.json").unlink()
    assert run("cut")["resumed_from_step"] == 2
    one, other = (weights_of(tmp_path / f / "model") for f in ("whole", "cut"))
    assert all((one[k] == other[k]).all() for k in one)


def test_a_checkpoint_holds_no_pickled_arguments(run: Any, progress: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(bar=progress(stop_at=5))
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not list(folder.rglob("training_args.bin"))


@pytest.mark.parametrize("change", ["rows", "seed", "options"])
def test_checkpoints_of_another_run_are_refused(
    run: Any, progress: Any, table: Any, sums: Any, change: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(bar=progress(stop_at=3))
    other = {
        "rows": {"rows": table(sums[:30])},
        "seed": {"seed": 4},
        "options": {"options": {"rank": 8}},
    }[change]
    with pytest.raises(TamisError, match="checkpoints of a run on other data"):
        run(**other)


def test_a_finished_run_is_not_repeated(run: Any, progress: Any) -> None:
    report = run()
    bar = progress()
    again = run(bar=bar)
    assert bar.calls == [] and again == json.loads(json.dumps(report))


def test_order_of_rows_does_not_count(
    run: Any, weights_of: Any, table: Any, sums: Any, tmp_path: Path
) -> None:
    run("one")
    run("other", rows=table(sums).take(list(range(39, -1, -1))))
    one, other = (weights_of(tmp_path / f / "model") for f in ("one", "other"))
    assert all((one[k] == other[k]).all() for k in one)


def test_nothing_is_printed_to_stdout(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run(max_steps=2)
    assert capfd.readouterr().out == ""


def test_report_counts(run: Any, table: Any, sums: Any, tmp_path: Path) -> None:
    empty = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]
    said: list[str] = []
    report = run(rows=table([*sums, empty]), epochs=1.5, say=said.append)
    assert report["rows"] == 40 and report["dropped"] == {"empty_answer": 1}
    assert report["rows_seen"] == 60 and report["steps"] == 8
    assert [e["step"] for e in report["history"]] == list(range(1, 9))
    assert report["trained_tokens_seen"] == sum(e["tokens"] for e in report["history"])
    assert said == ["rows left out of training: 1 empty_answer"]
    on_disk = json.loads((tmp_path / "run" / "train_report.json").read_text())
    assert on_disk == json.loads(json.dumps(report))


def test_refusals(run: Any, tiny: Model) -> None:
    with pytest.raises(RecipeError, match="output layer 'lm_head'"):
        run("head", options={"targets": ["q_proj", "lm_head"]})
    with pytest.raises(RecipeError, match="no_such_layer"):
        run("none", options={"targets": ["no_such_layer"]})
    with pytest.raises(RecipeError, match="adapter already"):
        run("twice", model=tiny.model_copy(update={"adapter": "somewhere"}))
    with pytest.raises(TamisError, match=r"diverged.*learning_rate"):
        run("diverged", **FULL | {"learning_rate": 1e30}, max_grad_norm=1e30, warmup=0)


def test_bfloat16_rounds_the_products_and_not_the_weights(run: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    exact = run("exact", **FULL, precision="float32")
    same = run("auto", **FULL)
    rounded = run("rounded", **FULL, precision="bfloat16")
    assert same["history"] == exact["history"]
    first, other = (report["history"][0]["loss"] for report in (exact, rounded))
    assert first != other
    assert other == pytest.approx(first, rel=0.02)
    weights = load_file(tmp_path / "rounded" / "model" / "model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"float32"}
    with pytest.raises(RecipeError, match="mezo works with differences of two losses"):
        run("zeroth", method="mezo", options={}, precision="bfloat16")


def test_the_prompt_given_at_generation_is_the_one_trained_on(sums: Any, tokenizer: Any) -> None:
    for messages in sums:
        row = render(messages, None, tokenizer, prompt_style="chat")
        before = prompt(messages[:-1], None, tokenizer, prompt_style="chat")
        assert row.ids[: len(before)] == before and row.labelled[len(before)]


def test_steps_of_rows_without_weight_are_counted_and_change_nothing(
    run: Any, table: Any, sums: Any, tmp_path: Path, weights_of: Any
) -> None:
    from tamis.trainer.data import steps

    order = steps(len(sums), epochs=1, rows_per_step=8, max_steps=3, seed=3)
    weights = [0.0 if i in {*order[0], *order[2]} else 1.0 for i in range(len(sums))]
    sgd = {"method": "full", "options": {}, "optimizer": "sgd", "scheduler": "constant"}
    block = {**sgd, "warmup": 0, "learning_rate": 0.01}
    report = run(rows=table(sums, weights), max_steps=3, **block)
    assert report["weightless_steps"] == 2
    first, second, third = report["history"]
    assert first["loss"] == first["grad_norm"] == third["loss"] == 0 < second["loss"]
    assert first["weightless"] and "weightless" not in second and first["nll"] > 0
    run("two", rows=table(sums, weights), max_steps=2, **block)
    one, other = (weights_of(tmp_path / name / "model") for name in ("run", "two"))
    assert all((one[name] == other[name]).all() for name in one)


def weighed(examples: Examples) -> Examples:
    rng = np.random.default_rng(5)
    return dataclasses.replace(
        examples, token_weight=rng.choice([0.0, 0.5, 3.0], len(examples.ids))
    )


@pytest.mark.parametrize("objective", ["sft", "dft", "sequence_mean"])
def test_tokens_have_weights_of_their_own(
    tiny: Model,
    tokenizer: Any,
    table: Any,
    sums: Any,
    progress: Any,
    tmp_path: Path,
    objective: str,
) -> None:
    """The first loss by hand, row by row, however rows are batched; and all 1 is as without."""
    import torch

    from tamis.trainer.data import steps

    rows = table(sums, [0.5 + i % 3 for i in range(len(sums))])
    plain = prepare(rows, tokenizer, prompt_style="chat", max_length=256)
    given = weighed(plain)
    lm = load_model(tiny, "cpu")
    top, low = 0.0, 0.0
    for i in steps(40, epochs=1, rows_per_step=8, max_steps=1, seed=3)[0]:
        ids, labels = (torch.from_numpy(a) for a in given.row(i))
        with torch.inference_mode():
            logp = torch.log_softmax(lm(input_ids=ids[None]).logits[0, :-1].double(), dim=-1)
        at = (labels[1:] != -100).nonzero()[:, 0]
        nll = -logp[at, labels[1:][at]].numpy()
        cost = np.exp(-nll) * nll if objective == "dft" else nll
        own = given.token_weight[given.indptr[i] :][at.numpy() + 1]
        if objective == "sequence_mean":
            top += given.weight[i] * float((own * cost).sum() / own.sum())
            low += given.weight[i]
        else:
            top += given.weight[i] * float((own * cost).sum())
            low += given.weight[i] * float(own.sum())

    def first(examples: Examples, folder: str, **options: Any) -> dict[str, Any]:
        (tmp_path / folder).mkdir()
        block = {"rows_per_step": 8, "batch_tokens": 128, "max_steps": 2, **options}
        block["objective"] = {"method": objective}
        return tune(
            examples,
            tiny,
            Tune.model_validate(block),
            seed=3,
            device="cpu",
            folder=tmp_path / folder,
            say=lambda line: None,
            progress=progress(),
        )

    for packing in ("best_fit", "none"):
        report = first(given, packing, packing=packing)
        assert report["history"][0]["loss"] == pytest.approx(top / low, rel=1e-5)
    ones = dataclasses.replace(plain, token_weight=np.ones(len(plain.ids)))
    one, other = first(ones, "ones"), first(plain, "plain")
    assert one["history"] == other["history"] and one["identity"] != other["identity"]


def test_token_weights_that_are_none_are_refused(tokenizer: Any, table: Any, sums: Any) -> None:
    plain = prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)
    for bad in (np.ones(3), np.full(len(plain.ids), -1.0), np.full(len(plain.ids), np.nan)):
        with pytest.raises(DataError, match="finite numbers >= 0, one a token"):
            dataclasses.replace(plain, token_weight=bad).check()
    with pytest.raises(DataError, match="weights that sum to 0"):
        dataclasses.replace(plain, token_weight=np.zeros(len(plain.ids))).check()
    taken = weighed(plain).take(np.array([7, 2]))
    assert taken.masses().tolist() == weighed(plain).masses()[[7, 2]].tolist()
