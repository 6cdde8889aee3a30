"""Fine-tune a model on rows: from a table to a folder that plain peft and transformers read."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import RecipeError
from tamis.language import tally
from tamis.language.generate import stop_ids
from tamis.language.load import quiet
from tamis.recipe import Model, Tune
from tamis.trainer import (
    checkpoints,
    diagnose,
    engine,
    launch,
    online,
    optimizers,
    watch,
)
from tamis.trainer.data import Examples
from tamis.trainer.given import NOTHING, Given
from tamis.trainer.job import Job, job_of, tell_dropped
from tamis.trainer.ready import Ready, prepared
from tamis.trainer.report import facts, finished, write

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def tune(
    rows: pa.Table | Examples,
    model: Model,
    options: Tune,
    *,
    seed: int,
    device: str,
    folder: Path,
    say: Callable[[str], None],
    progress: Progress,
    title: str = "tune",
    given: Given = NOTHING,
    heldout: pa.Table | None = None,
) -> dict[str, Any]:
    """Train `model` on `rows` (`row_id`, `messages`, `tools`, `weight`) and return the report.

    Examples that are tokens already are trained on as they are. `given` is what an online rule or
    an objective reads beside the rows. With `options.evaluate_every` the model of the lowest loss
    on the rows `heldout` is what is left (see `watch`).

    Writes `folder/model` (adapter or full weights as safetensors, tokenizer with chat template,
    generation config) and, last, `folder/train_report.json`. Checkpoints lie in
    `folder/checkpoints` while it runs: a call that was killed goes on from the newest one and ends
    with the same parameters, bit for bit on a CPU. `device` is cpu or cuda.

    Among processes that train together (see `launch`) each is called with the same; the first of
    them writes. Their number changes nothing but rounding, and what is drawn by dropout.

    Raises `DataError` when no row can be trained on, `RecipeError` for options that do not fit the
    model, `TamisError` when the folder holds checkpoints of another run or the training diverges.
    """
    if model.adapter is not None:
        raise RecipeError("tune: the model has an adapter already; merge it into the weights first")
    with launch.joined(device):
        if launch.rank() > 0:
            say, progress = launch.silent, launch.unseen
        job = job_of(rows, model, options, seed, device, folder, given, heldout)
        return _run(job, say, progress, title)


def _run(job: Job, say: Callable[[str], None], progress: Progress, title: str) -> dict[str, Any]:
    started, folder = time.monotonic(), job.folder
    tell_dropped(job.examples, say)
    done = finished(folder, job.identity)
    if done is not None:
        return done
    with launch.first():
        resumed = checkpoints.latest(folder / "checkpoints", job.identity)
    if resumed is not None:
        say(f"going on from {resumed.name.replace('-', ' ')} of {len(job.groups)} steps")
    reference = _reference(job)
    ready = prepared(job)
    lm, trained = ready.lm, ready.trained
    trainable = job.method.trainable(trained)
    picking = _picking(job, lm, trained, reference)
    training = time.monotonic()
    history, seen = _train(job, ready, picking, resumed, progress, title)
    training = time.monotonic() - training
    del lm.forward  # what is saved and used from here on is the model as it was, with its logits
    report = {
        **facts(job, history),
        **seen,
        "trainable_parameters": trainable,
        "trainable_share": trainable / ready.size,
        "resumed_from_step": int(resumed.name.split("-")[1]) if resumed else 0,
        "seconds": time.monotonic() - started,
    }
    if ready.noise is not None:
        report["noisy_layers"] = ready.noise.chosen
    if picking is not None:
        report["online"] = online.facts(picking, training)
    if launch.rank() == 0:
        _save(job, lm, trained)
        if picking is not None:
            picking.picks.finish(len(job.groups), folder / online.PICKS)
            online.write_rows(picking, folder / online.ROWS)
        write(folder, report)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    launch.wait()
    return report


def _reference(job: Job) -> np.ndarray | None:
    """The reference loss of each row, for a rule that reads it."""
    if job.beside.reference is None:
        return job.beside.losses
    return online.reference_losses(job.beside.reference, job.examples, job.device)


def _picking(
    job: Job, lm: Any, trained: Any, reference: np.ndarray | None
) -> online.Picking | None:
    return online.picking(
        _dataset(job),
        trained,
        lm,
        job.model,
        rows=len(job.examples),
        seed=job.seed,
        folder=job.folder / "checkpoints",
        reference=reference,
    )


def _dataset(job: Job) -> engine.Steps:
    """The steps; trusted rows stand behind those of the run, and no step draws them."""
    safe = job.beside.safe
    examples = job.examples if safe is None else online.joined(job.examples, safe)
    return engine.Steps(examples, job.groups, job.options, job.device, job.course)


def _train(
    job: Job,
    ready: Ready,
    picking: online.Picking | None,
    resumed: Path | None,
    progress: Progress,
    title: str,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run all steps; returns one entry a step: loss, nll, tokens, grad_norm, learning_rate, and
    what objective and diagnostics add; and what was seen of the held-out rows and beforehand."""
    from transformers import TrainerCallback

    with progress(title, sum(map(len, job.groups))) as advance, quiet():

        class Reporter(TrainerCallback):
            """Tells the progress and seals checkpoints."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                advance(sum(map(len, job.groups[: state.global_step])))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                rows = job.groups[state.global_step - 1]
                advance(len(rows))
                tally.note(len(rows), int(job.examples.lengths[rows].sum()))

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                launch.wait()  # each process writes the state of its generators
                if launch.rank() == 0:
                    checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

        trainer = engine.build(
            ready.trained,
            _dataset(job) if picking is None else picking.dataset,
            job.options,
            method=job.method,
            seed=job.seed,
            device=job.device,
            folder=job.folder / "checkpoints",
            callbacks=[Reporter()],
            picking=picking,
            teacher=ready.teacher,
        )
        if job.heldout is not None:
            watch.watch(trainer, job.heldout, job.options, job.device, job.folder / "checkpoints")
        if ready.diagnosis is not None:
            diagnose.attach(trainer, ready.diagnosis)
        with optimizers.loadable(job.options):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        if hasattr(trainer.optimizer.optimizer, "eval"):
            trainer.optimizer.eval()  # a schedule-free one keeps the weights to use apart
    seen = {} if job.heldout is None else watch.outcome(trainer, job.folder / "checkpoints")
    seen |= diagnose.before(trainer)
    logged = [entry for entry in trainer.state.log_history if "nll" in entry]
    return [{n: value for n, value in entry.items() if n != "epoch"} for entry in logged], seen


def _save(job: Job, lm: Any, trained: Any) -> None:
    """Write what plain peft or transformers need to use the model."""
    from transformers import GenerationConfig

    folder, style = job.folder / "model", job.model.prompt_style
    shutil.rmtree(folder, ignore_errors=True)
    stops = stop_ids(job.tokenizer, prompt_style=style, config=lm.generation_config)
    # A saved adapter carries no generation config, and a template's turn end is not always EOS.
    lm.generation_config = GenerationConfig(
        eos_token_id=stops, pad_token_id=job.tokenizer.pad_token_id
    )
    with quiet():
        job.method.save(lm, trained, folder)
        lm.generation_config.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
