"""Train a model to say how complex or how good a text is, from a user's own rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tamis.errors import DataError, RecipeError
from tamis.language.choices import after
from tamis.language.forward import Engine
from tamis.language.load import identity
from tamis.numerics.ranks import spearman
from tamis.pipelines import beside, plan, rankings
from tamis.pipelines import tune as tuning
from tamis.pipelines.context import Context
from tamis.pipelines.rankings import Ranked
from tamis.recipe import Model
from tamis.scoring import digit_prompt
from tamis.scoring.digit_prompt import DigitPrompt
from tamis.scoring.digits import expectation
from tamis.scoring.evol import CARD, Axis
from tamis.storage.artifact import Artifact, Maker
from tamis.trainer.data import Examples
from tamis.trainer.tune import tune as train

# Raise by hand when the same rankings train another scorer.
VERSION = 1
# Of the train report, what is worth telling.
_FACTS = ("rows", "dropped", "truncated", "steps", "first_nll", "last_nll", "seconds")


def train_scorer(
    ctx: Context, paths: Sequence[str], axis: Axis, template: str, heldout_percent: float
) -> tuple[Artifact, bool]:
    """Tune the recipe's model to answer the template with the digit of each row, and test it.

    Groups are split by seed: variants of one seed never stand on both sides. The artefact holds
    `model`, an adapter or weights with their templates, to be named as `model:` of `evol`. Facts:
    those of training, and the rank correlation (Spearman) of expected digit and given score on the
    rows held out, beside that of the length of the text.
    """
    digit_prompt.check(template, f"the template of {axis}")
    options = ctx.recipe.tune
    if options is None or options.command is not None:
        raise RecipeError("train-scorer uses the bundled trainer: name a model and no command")
    base = plan.model(ctx.recipe, options.model, "train-scorer")
    rows = rankings.read(paths)
    inputs = {
        "scorer": VERSION,
        "rankings": _fingerprint(rows),
        "model": identity(base),
        "template": {axis: template},
        "heldout": heldout_percent,
        **tuning.settings(ctx),
    }

    def make(maker: Maker) -> Mapping[str, Any]:
        trained, held = rankings.split(rows, heldout_percent, ctx.recipe.seed)
        examples = _examples(trained, _prompt(base, template, ctx))
        report = train(
            examples,
            base,
            options,
            seed=ctx.recipe.seed,
            device=ctx.device,
            folder=maker.folder,
            say=ctx.say,
            progress=ctx.progress,
            title="train-scorer",
            given=beside.given(ctx, options),
        )
        scorer = _scorer(base, maker.folder / tuning.MODEL, {axis: template})
        facts = {name: report[name] for name in _FACTS}
        return {**facts, "axis": axis, **_tested(scorer, held, template, ctx)}

    return ctx.store.ensure("models", inputs, make, say=ctx.say)


def _prompt(model: Model, template: str, ctx: Context) -> DigitPrompt:
    """Leaves room for the digit itself."""
    engine = Engine(model, ctx.device)
    limit = min(engine.max_length, (ctx.recipe.tune and ctx.recipe.tune.max_length) or 2**31)
    return DigitPrompt(engine.tokenizer, template, limit - 1)


def _examples(rows: Sequence[Ranked], prompt: DigitPrompt) -> Examples:
    """Prompt and digit of each row; only the digit carries loss."""
    ids, labelled, kept = [], [], []
    truncated = 0
    for number, row in enumerate(rows):
        found, cut = prompt.ids(row.instruction, row.response)
        if found is None:
            continue
        truncated += cut > 0
        ids.append(np.array([*found, prompt.digits[row.digit - 1]], dtype=np.int32))
        labelled.append(np.arange(len(found) + 1) == len(found))
        kept.append(str(number))
    if not kept:
        raise DataError("the template alone is longer than the model takes: no row can be used")
    left_out = len(rows) - len(kept)
    return Examples(
        np.concatenate(ids),
        np.concatenate(labelled),
        np.cumsum([0, *map(len, ids)]),
        np.ones(len(kept)),
        kept,
        {"template_does_not_fit": left_out} if left_out else {},
        truncated,
    )


def _tested(scorer: Model, held: Sequence[Ranked], template: str, ctx: Context) -> dict[str, Any]:
    engine = Engine(scorer, ctx.device)
    prompt = _prompt(scorer, template, ctx)
    coded = [(row, prompt.ids(row.instruction, row.response)[0]) for row in held]
    usable = [(row, ids) for row, ids in coded if ids is not None]
    digits = np.tile(np.array(prompt.digits), (len(usable), 1))
    with ctx.progress("test the scorer", len(usable)) as advance:
        found = after(engine, [ids for _, ids in usable], digits, done=lambda k: advance(len(k)))
    given = np.array([row.score for row, _ in usable])
    length = np.array([len(row.instruction) + len(row.response) for row, _ in usable], dtype=float)
    return {
        "heldout_rows": len(usable),
        "heldout_groups": len({row.group for row in held}),
        "spearman": spearman(expectation(found), given),
        "spearman_of_length": spearman(length, given),
    }


def _fingerprint(rows: Sequence[Ranked]) -> str:
    """Of what the rows say, not of how their file is written."""
    return blake2b(orjson.dumps([asdict(row) for row in rows]), digest_size=16).hexdigest()


def _scorer(base: Model, folder: Path, templates: Mapping[str, str]) -> Model:
    """The trained model, with its templates beside the weights."""
    temporary = folder / f".{CARD}.tmp"
    temporary.write_bytes(orjson.dumps(dict(templates), option=orjson.OPT_INDENT_2))
    temporary.replace(folder / CARD)
    return tuning.left_in(folder, base)
