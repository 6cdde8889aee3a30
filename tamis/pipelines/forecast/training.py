"""How much tuning and evaluating there is to do: counted from the manifests, timed in a few
steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from tamis.language.load import cached
from tamis.language.tally import Tally, counted
from tamis.pipelines import beside, plan
from tamis.pipelines import evaluate as evaluation
from tamis.pipelines import tune as tuning
from tamis.pipelines.context import Context
from tamis.pipelines.evaluate import Heldout
from tamis.pipelines.forecast.figures import Work
from tamis.pipelines.forecast.scoring import Timing
from tamis.recipe import Model, Tune
from tamis.storage import manifests
from tamis.storage.artifact import Artifact, key_of
from tamis.storage.manifests import Manifest
from tamis.trainer import evaluate as bundled
from tamis.trainer.data import steps
from tamis.trainer.job import job_of
from tamis.trainer.tune import tune as train

# A calibration trains some steps of so many rows, of which the first is not timed: so many that
# about so many tokens are read, within bounds.
_ROWS, _TOKENS = 8, 6_000
_FEWEST, _MOST = 3, 20
_FEW, _MORE = 4, 16
_COMMAND = "not timed: a command of yours"
_ABSENT = "not timed: the model is not on this machine yet"


@dataclass(slots=True)
class Trials:
    """Calibrations that were made: one for all trainings of like settings; the lengths of rows that
    were tokenised; and the models and evaluations that the work so far will have made."""

    trainings: dict[str, Timing] = field(default_factory=dict)
    evaluations: list[Timing] = field(default_factory=list)
    lengths: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)


def tuned(
    ctx: Context, manifest: Artifact, trials: Trials, *, stage: str, what: str, exact: bool
) -> tuple[str, Work]:
    """The key of the model tuned on a manifest, and the work to have it.

    Without `exact` the manifest stands for another that is not known yet, and nothing is looked up.
    """
    options = ctx.recipe.tune
    assert options is not None
    data = manifests.read(manifest.path)
    key = key_of("models", tuning.inputs(ctx, data))
    work = Work(stage, what, exact=exact)
    if exact and (key in trials.made or ctx.store.find("models", key) is not None):
        work.reused = 1
        return key, work
    trials.made |= {key} if exact else set()
    work.computed = work.tunings = 1
    work.rows = int(manifest.facts["rows"])
    if options.command is not None:
        work.how = _COMMAND
        return key, work
    base = plan.model(ctx.recipe, options.model, "tune")
    if not cached(base):
        work.how = _ABSENT
        return key, work
    _counted(ctx, data, base, options, work, trials)
    length = work.read.tokens / max(work.read.passes, 1)
    timing = _training(ctx, data, base, options, length, trials)
    work.seconds = timing.seconds_of(work.rows, work.read)
    work.bytes, work.how = timing.bytes, f"{timing.told} in steps of {_ROWS}"
    return key, work


def _counted(
    ctx: Context, data: Manifest, base: Model, options: Tune, work: Work, trials: Trials
) -> None:
    """The rows, tokens and steps of a training: those of the trainer itself."""
    name = (data.content_hash, repr(options))
    if name not in trials.lengths:
        trials.lengths[name] = _lengths(ctx, data, base, options)
    lengths = trials.lengths[name]
    groups = steps(
        len(lengths),
        epochs=options.epochs,
        rows_per_step=options.rows_per_step,
        max_steps=options.max_steps,
        seed=ctx.recipe.seed,
    )
    work.read = Tally(sum(map(len, groups)), int(sum(lengths[g].sum() for g in groups)))
    work.steps = len(groups)


def _lengths(ctx: Context, data: Manifest, base: Model, options: Tune) -> np.ndarray:
    """Tokens of each row as it is trained on."""
    with TemporaryDirectory() as folder:
        job = job_of(
            data.rows(),
            base,
            options,
            ctx.recipe.seed,
            ctx.device,
            Path(folder),
            beside.given(ctx, options),
            data.rows("heldout") if options.evaluate_every else None,
        )
    return job.examples.lengths


def _training(
    ctx: Context, data: Manifest, base: Model, options: Tune, length: float, trials: Trials
) -> Timing:
    settings = repr(options)
    if settings not in trials.trainings:
        count = int(np.clip(_TOKENS // (_ROWS * max(length, 1)), _FEWEST, _MOST))
        trials.trainings[settings] = _tried(ctx, data, base, options, count)
    return trials.trainings[settings]


def _tried(ctx: Context, data: Manifest, base: Model, options: Tune, count: int) -> Timing:
    """Some steps of the real training."""
    table = data.rows()
    rows = np.unique(np.linspace(0, table.num_rows - 1, count * _ROWS).astype(int))
    few = options.model_copy(
        update={
            "epochs": max(1.0, count * _ROWS / len(rows)),
            "rows_per_step": min(options.rows_per_step, _ROWS),
            "max_steps": count,
            "save_every": 1_000_000,
            "evaluate_every": None,
        }
    )
    watch = _Watch()
    with TemporaryDirectory() as folder, counted() as read:
        report = train(
            table.take(pa.array(rows)),
            base,
            few,
            seed=ctx.recipe.seed,
            device=ctx.device,
            folder=Path(folder),
            say=ctx.say,
            progress=watch.progress,
            given=beside.given(ctx, options),
        )
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    after = (report["steps"] - 1) / report["steps"]
    told = Tally(round(read.passes * after), round(read.tokens * after))
    # A training of one step is timed whole, for want of a second.
    seconds = watch.after_first() or report["seconds"]
    return Timing(told.passes or read.passes, told if told.tokens else read, seconds, size)


class _Watch:
    """When each step came to its end."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Take the place of a progress bar."""

        def advance(rows: int) -> None:
            if rows:
                self.moments.append(time.monotonic())

        yield advance

    def after_first(self) -> float:
        """Seconds of all steps but the first."""
        return self.moments[-1] - self.moments[0] if len(self.moments) > 1 else 0.0


def evaluated(
    ctx: Context,
    model: str | None,
    held: Heldout,
    trials: Trials,
    *,
    what: str,
    exact: bool,
) -> Work:
    """The work to have the evaluation of the model of a key; None is the untuned one."""
    options = ctx.recipe.evaluate
    assert options is not None
    work = Work("evaluate", what, exact=exact)
    key = key_of("evaluations", evaluation.inputs(ctx, model, held))
    if exact and (key in trials.made or ctx.store.find("evaluations", key) is not None):
        work.reused = 1
        return work
    trials.made |= {key} if exact else set()
    held = evaluation.within(options, held)
    work.computed, work.rows = 1, len(held.ids)
    if options.command is not None:
        work.how = _COMMAND
        return work
    base = plan.model(ctx.recipe, ctx.recipe.tune and ctx.recipe.tune.model, "tune")
    if not cached(base):
        work.how = _ABSENT
        return work
    work.read = bundled.reads(
        evaluation.asked(options, held), base, max_new_tokens=options.max_new_tokens
    )
    if not trials.evaluations:
        trials.evaluations.append(_evaluation(ctx, held, base))
    timing = trials.evaluations[0]
    work.seconds = timing.seconds / timing.rows * work.rows
    work.bytes = round(timing.bytes / timing.rows * work.rows)
    work.how = f"timed on {timing.rows:,} rows and the untuned model"
    return work


def _evaluation(ctx: Context, held: Heldout, base: Model) -> Timing:
    """A few rows, then more: the difference is what rows cost beyond loading the model."""
    options = ctx.recipe.evaluate
    assert options is not None
    more = np.unique(np.linspace(0, len(held.ids) - 1, _FEW + _MORE).astype(int))
    few = more[:: max(1, len(more) // _FEW)][:_FEW]

    def timed(rows: np.ndarray) -> tuple[float, int]:
        some = Heldout(held.pool, held.ids.take(pa.array(rows)))
        start = time.monotonic()
        table = bundled.evaluate(
            evaluation.asked(options, some),
            base,
            max_new_tokens=options.max_new_tokens,
            device=ctx.device,
            progress=_Watch().progress,
        )
        return time.monotonic() - start, table.nbytes

    short, _ = timed(few)
    long, size = timed(more)
    extra = len(more) - len(few)
    if not extra or long <= short:  # too few rows to tell them from the loading
        return Timing(len(more), Tally(), long, size)
    return Timing(extra, Tally(), long - short, size * extra // len(more))
