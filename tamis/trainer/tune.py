"""Fine-tune a model on rows: from a table to a folder that plain peft and transformers read."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import RecipeError
from tamis.language.generate import stop_ids
from tamis.language.load import identity, load_model, load_tokenizer, max_length, quiet, vocabulary
from tamis.recipe import Model, Tune
from tamis.trainer import checkpoints, engine, methods, optimizers
from tamis.trainer.data import Examples, prepare, steps
from tamis.trainer.loss import terms_forward
from tamis.trainer.methods import Context, Method
from tamis.trainer.objectives import Course, Objective
from tamis.trainer.objectives import build as objective_of
from tamis.trainer.objectives import course as course_of
from tamis.trainer.objectives.start import StartModel
from tamis.trainer.pack import padded

# Raise by hand when the same rows, options and seed train another model.
VERSION = 1
REPORT = "train_report.json"
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")

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
) -> dict[str, Any]:
    """Train `model` on `rows` (`row_id`, `messages`, `tools`, `weight`) and return the report.

    Examples that are tokens already are trained on as they are.

    Writes `folder/model` (adapter or full weights as safetensors, tokenizer with chat template,
    generation config) and, last, `folder/train_report.json`. Checkpoints lie in
    `folder/checkpoints` while it runs: a call that was killed goes on from the newest one and ends
    with the same parameters, bit for bit on a CPU. `device` is cpu or cuda.

    Raises `DataError` when no row can be trained on, `RecipeError` for options that do not fit the
    model, `TamisError` when the folder holds checkpoints of another run or the training diverges.
    """
    if model.adapter is not None:
        raise RecipeError("tune: the model has an adapter already; merge it into the weights first")
    started = time.monotonic()
    job = _job(rows, model, options, seed, device, folder)
    _tell(job.examples, say)
    done = _finished(folder, job.identity)
    if done is not None:
        return done
    resumed = checkpoints.latest(folder / "checkpoints", job.identity)
    if resumed is not None:
        say(f"going on from {resumed.name.replace('-', ' ')} of {len(job.groups)} steps")
    lm, trained, size = _prepared(job)
    trainable = job.method.trainable(trained)
    history = _train(job, trained, resumed, progress, title)
    del lm.forward  # what is saved and used from here on is the model as it was, with its logits
    _save(job, lm, trained)
    report = {
        **_facts(job, history),
        "trainable_parameters": trainable,
        "trainable_share": trainable / size,
        "resumed_from_step": int(resumed.name.split("-")[1]) if resumed else 0,
        "seconds": time.monotonic() - started,
    }
    _write_report(folder, report)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return report


@dataclass(frozen=True, slots=True)
class _Job:
    """One run: what is trained on what, in which steps, where to."""

    examples: Examples
    groups: list[np.ndarray]
    tokenizer: Any
    model: Model
    options: Tune
    seed: int
    device: str
    folder: Path
    limit: int
    identity: str
    objective: Objective
    course: Course
    method: Method


def _job(
    rows: pa.Table | Examples, model: Model, options: Tune, seed: int, device: str, folder: Path
) -> _Job:
    method = methods.of(options)
    optimizers.check(options, method)
    tokenizer = load_tokenizer(model)
    objective = objective_of(options.objective.method, options.objective.options)
    limit = min(options.max_length or max_length(model), max_length(model))
    if isinstance(rows, Examples):
        examples = rows
    else:
        examples = prepare(
            rows.sort_by("row_id"),  # so that the order of files and shards does not count
            tokenizer,
            prompt_style=model.prompt_style,
            max_length=limit,
            group_by=objective.group_by(),
        )
    groups = steps(
        len(examples),
        epochs=options.epochs,
        rows_per_step=options.rows_per_step,
        max_steps=options.max_steps,
        seed=seed,
    )
    name = _identity(examples, model, options, seed)
    course = course_of(tokenizer, model.prompt_style, seed, len(groups))
    objective.check(examples, course)
    return _Job(
        examples,
        groups,
        tokenizer,
        model,
        options,
        seed,
        device,
        folder,
        limit,
        name,
        objective,
        course,
        method,
    )


def _tell(examples: Examples, say: Callable[[str], None]) -> None:
    if examples.dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in examples.dropped.items())
        say(f"rows left out of training: {reasons}")


def _identity(examples: Examples, model: Model, options: Tune, seed: int) -> str:
    """Hash of everything that determines the parameters."""
    parts = {
        "version": VERSION,
        "examples": examples.fingerprint(),
        "model": identity(model),
        "method": methods.get(options.method).version,
        "options": options.model_dump(exclude={"model", "command", "save_every"}),
        "seed": seed,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The report of this very run when it came to its end in `folder` before."""
    path = folder / REPORT
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report if report["identity"] == name else None


def _prepared(job: _Job) -> tuple[Any, Any, int]:
    """The causal language model with the loss as its forward, what of it is trained, and how many
    parameters it came with."""
    from transformers import set_seed

    set_seed(job.seed % 2**32)
    # Trained in float32 whatever the checkpoint holds: small updates vanish in bfloat16.
    lm = load_model(job.model.model_copy(update={"dtype": "float32"}), job.device)
    lm.requires_grad_(False)
    size = sum(p.numel() for p in lm.parameters())
    start = _start_model(job, lm) if job.objective.frozen else None
    forward = terms_forward(lm, vocabulary(job.model), start)
    if job.device == "cuda" and job.method.checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lm.forward = forward
    with quiet():
        trained = job.method.prepare(lm, _context(job))
    if start is not None:
        start.settle(trained)
    return lm, trained, size


def _context(job: _Job) -> Context:
    total = len(job.groups)

    def batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
        first = np.concatenate(job.groups)[:rows]
        for begin in range(0, len(first), at_once):
            batch = padded(job.examples, first[begin : begin + at_once])
            names = ("input_ids", "labels", "loss_weights")
            yield {name: batch[name].to(job.device) for name in names}

    rate = job.options.learning_rate or job.method.learning_rate
    warmup = int(job.options.warmup * total)
    return Context(total, warmup, rate, job.seed, job.device, batches)


def _start_model(job: _Job, lm: Any) -> StartModel:
    again = job.model.model_copy(update={"dtype": "float32" if job.device == "cpu" else "bfloat16"})
    return StartModel(lm, vocabulary(job.model), lambda: load_model(again, job.device))


def _train(
    job: _Job, trained: Any, resumed: Path | None, progress: Progress, title: str
) -> list[dict[str, Any]]:
    """Run all steps; returns one entry a step: loss, nll, tokens, grad_norm, learning_rate, and
    what the objective adds."""
    from transformers import TrainerCallback

    with progress(title, sum(map(len, job.groups))) as advance, quiet():

        class Reporter(TrainerCallback):
            """Tells the progress and seals checkpoints."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                advance(sum(map(len, job.groups[: state.global_step])))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                advance(len(job.groups[state.global_step - 1]))

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

        trainer = engine.build(
            trained,
            engine.Steps(job.examples, job.groups, job.options, job.device, job.course),
            job.options,
            method=job.method,
            seed=job.seed,
            device=job.device,
            folder=job.folder / "checkpoints",
            callbacks=[Reporter()],
        )
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        if hasattr(trainer.optimizer.optimizer, "eval"):
            trainer.optimizer.eval()  # a schedule-free one keeps the weights to use apart
    logged = [entry for entry in trainer.state.log_history if "nll" in entry]
    return [{n: value for n, value in entry.items() if n != "epoch"} for entry in logged]


def _save(job: _Job, lm: Any, trained: Any) -> None:
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


def _facts(job: _Job, history: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    lengths = job.examples.lengths
    cuda = job.device == "cuda"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "identity": job.identity,
        "version": VERSION,
        "method": job.options.method,
        "method_facts": job.method.facts(),
        "learning_rate": methods.learning_rate(job.options),
        "optimizer": job.options.optimizer,
        "seed": job.seed,
        "rows": len(job.examples),
        "dropped": job.examples.dropped,
        "truncated": job.examples.truncated,
        "max_length": job.limit,
        "steps": len(job.groups),
        "rows_seen": sum(map(len, job.groups)),
        "tokens_seen": int(sum(lengths[g].sum() for g in job.groups)),
        "trained_tokens_seen": sum(entry["tokens"] for entry in history),
        "first_nll": history[0]["nll"],
        "last_nll": history[-1]["nll"],
        "history": history,
        "peak_memory_bytes": int(torch.cuda.max_memory_allocated() if cuda else used),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    temporary = folder / f".{REPORT}.tmp"
    temporary.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / REPORT)
