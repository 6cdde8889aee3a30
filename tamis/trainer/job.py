"""One run of the trainer: what is trained on what, in which steps, where to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.errors import RecipeError
from tamis.language.load import identity, load_tokenizer, max_length
from tamis.recipe import Model, Tune
from tamis.trainer import methods, online, optimizers
from tamis.trainer.data import Examples, prepare, steps
from tamis.trainer.given import NOTHING, Given
from tamis.trainer.methods import Method
from tamis.trainer.methods.parts import sharded
from tamis.trainer.objectives import Course, Objective
from tamis.trainer.objectives import build as objective_of
from tamis.trainer.objectives import course as course_of
from tamis.trainer.objectives.teacher import check_reach, check_teacher
from tamis.trainer.online import Beside

# Raise by hand when the same rows, options and seed train another model.
VERSION = 1


def check(options: Tune, device: str) -> Method:
    """The method of a tune block, after everything that can be checked without model and rows.

    Raises `RecipeError` for unknown names and options, for what does not go together or not with
    this device (cpu or cuda), `MissingPackage` for what is not installed.
    """
    method = methods.of(options)
    method.check_device(device)
    optimizers.check(options, method)
    objective = objective_of(options.objective.method, options.objective.options)
    if objective.frozen and not method.packable:
        raise RecipeError(
            f"objective {objective.name} compares with the model as it came, which has no virtual "
            f"tokens: use it without method {method.name}"
        )
    if objective.taught and (method.steps_itself or not method.packable):
        raise RecipeError(
            f"objective {objective.name} asks a teacher about the same tokens and goes by "
            f"gradients: use it without method {method.name}"
        )
    if options.precision == "bfloat16" and method.steps_itself:
        raise RecipeError(
            f"{method.name} works with differences of two losses, which bfloat16 rounds away: "
            "leave tune.precision out"
        )
    if objective.noisy and (method.steps_itself or not method.packable):
        raise RecipeError(
            f"objective {objective.name} puts noise on the tokens of rows and goes by gradients: "
            f"use it without method {method.name}"
        )
    online.check(options)
    if options.diagnose is not None and (kind := sharded()):
        raise RecipeError(
            f"tune.diagnose looks at whole weights in one process, and {kind} cuts them: use ddp, "
            "or leave it out"
        )
    return method


@dataclass(frozen=True, slots=True)
class Job:
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
    beside: Beside
    teacher: Model | None
    heldout: Examples | None


def job_of(
    rows: pa.Table | Examples,
    model: Model,
    options: Tune,
    seed: int,
    device: str,
    folder: Path,
    given: Given = NOTHING,
    heldout: pa.Table | None = None,
) -> Job:
    """Check the options and make the rows into steps."""
    method = check(options, device)
    tokenizer = load_tokenizer(model)
    objective = objective_of(options.objective.method, options.objective.options)
    limit = min(options.max_length or max_length(model), max_length(model))
    examples = _examples(rows, tokenizer, model, limit, objective.group_by())
    watched = _watched(heldout, options, tokenizer, model, limit)
    groups = steps(
        len(examples),
        epochs=options.epochs,
        rows_per_step=options.rows_per_step,
        max_steps=options.max_steps,
        seed=seed,
    )
    beside = online.beside(options.online, rows, examples, given, model, limit)
    teacher = _teacher(objective, given, model, examples)
    name = _identity(examples, model, options, seed, beside, teacher, watched)
    course = course_of(tokenizer, model.prompt_style, seed, len(groups))
    objective.check(examples, course)
    return Job(
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
        beside,
        teacher,
        watched,
    )


def _examples(
    rows: pa.Table | Examples, tokenizer: Any, model: Model, limit: int, group_by: str | None
) -> Examples:
    if isinstance(rows, Examples):
        rows.check()
        return rows
    return prepare(
        rows.sort_by("row_id"),  # so that the order of files and shards does not count
        tokenizer,
        prompt_style=model.prompt_style,
        max_length=limit,
        group_by=group_by,
    )


def _teacher(objective: Objective, given: Given, model: Model, examples: Examples) -> Model | None:
    """The model that is learnt from, where one is, checked against the one that learns."""
    if not objective.taught:
        return None
    if given.teacher is None:
        raise RecipeError(
            f"objective {objective.name} learns from a teacher, and was given none: pass it as "
            "Given(teacher=...)"
        )
    check_teacher(given.teacher, model)
    check_reach(given.teacher, examples)
    return given.teacher


def _watched(
    heldout: pa.Table | None, options: Tune, tokenizer: Any, model: Model, limit: int
) -> Examples | None:
    """The rows that are looked at while the model is trained."""
    if options.evaluate_every is None:
        return None
    if heldout is None or not heldout.num_rows:
        raise RecipeError(
            "tune.evaluate_every needs held-out rows, and there are none: export a manifest with "
            "evaluate, or leave it out"
        )
    return _examples(heldout, tokenizer, model, limit, None)


def named(options: Tune) -> dict[str, Any]:
    """The options that determine the parameters: no names, no paths, no habits of saving."""
    unnamed: dict[str, Any] = {"model": True, "command": True, "save_every": True}
    named_inside = {"online": {"safe", "reference"}, "objective": {"options": {"teacher"}}}
    return options.model_dump(exclude={**unnamed, **named_inside})


def tell_dropped(examples: Examples, say: Callable[[str], None]) -> None:
    """Say which rows are left out, and why, and how many are split."""
    if examples.dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in examples.dropped.items())
        say(f"rows left out of training: {reasons}")
    if examples.split:
        say(f"{examples.split} rows trained in parts: the chat template rewrites their turns")


def _identity(
    examples: Examples,
    model: Model,
    options: Tune,
    seed: int,
    beside: Beside,
    teacher: Model | None,
    heldout: Examples | None,
) -> str:
    """Hash of everything that determines the parameters."""
    parts = {
        "version": VERSION,
        "examples": examples.fingerprint(),
        "model": identity(model),
        "method": methods.get(options.method).version,
        "options": named(options),
        "online": beside.identity(),
        "heldout": heldout and heldout.fingerprint(),
        "seed": seed,
    }
    if teacher is not None:
        parts["teacher"] = identity(teacher)
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
