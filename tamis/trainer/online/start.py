"""From a tune block, rows and a model to a rule at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tamis.errors import DataError, RecipeError
from tamis.language.load import load_model, load_tokenizer, tokenizer_identity, vocabulary
from tamis.recipe import Model, Online
from tamis.selectors import online
from tamis.trainer.data import Examples, prepare
from tamis.trainer.given import Given
from tamis.trainer.loss import terms_forward
from tamis.trainer.online.columns import Columns
from tamis.trainer.online.given import Beside
from tamis.trainer.online.head import Head
from tamis.trainer.online.picking import Picking
from tamis.trainer.online.picks import Picks

if TYPE_CHECKING:
    from tamis.trainer.engine import Steps

REFERENCE = "reference_loss"


def beside(
    chosen: Online | None,
    rows: pa.Table | Examples,
    examples: Examples,
    given: Given,
    model: Model,
    limit: int,
) -> Beside:
    """What a rule is given beside the rows, ready; nothing for no rule."""
    if chosen is None:
        return Beside()
    losses = reference_column(rows, examples) if chosen.method == "rho_loss" else None
    reference = given.reference if chosen.method == "rho_loss" and losses is None else None
    if chosen.method == "rho_loss" and losses is None:
        _check_reference(reference, model)
    return Beside(_trusted(chosen, given, model, limit), reference, losses)


def _trusted(chosen: Online, given: Given, model: Model, limit: int) -> Examples | None:
    """The trusted rows as the trainer sees them; None where the rule reads none."""
    if chosen.safe is None:
        return None
    if given.safe is None:
        raise RecipeError(
            f"tune.online: {chosen.method} trains with trusted rows, and was given none: pass them "
            "as Given(safe=...)"
        )
    rows = given.safe.sort_by("row_id")
    style = model.prompt_style
    return prepare(rows, load_tokenizer(model), prompt_style=style, max_length=limit)


def reference_column(rows: pa.Table | Examples, examples: Examples) -> np.ndarray | None:
    """The reference loss that the rows bring along, (n,) float64, NaN where null; None if none."""
    if isinstance(rows, Examples) or REFERENCE not in rows.column_names:
        return None
    named = zip(rows["row_id"].to_pylist(), rows[REFERENCE].to_pylist(), strict=True)
    found = {i: np.nan if loss is None else float(loss) for i, loss in named}
    return np.array([found[i] for i in examples.row_id])


def _check_reference(reference: Model | None, model: Model) -> None:
    if reference is None:
        raise RecipeError(
            "tune.online: rho_loss needs a reference model: name an entry of models in "
            "tune.online.reference"
        )
    if tokenizer_identity(reference) != tokenizer_identity(model):
        raise RecipeError(
            f"tune.online.reference: {reference.location} has another tokenizer than "
            f"{model.location}: losses a token compare only over the same tokens"
        )


def reference_losses(reference: Model, examples: Examples, device: str) -> np.ndarray:
    """The mean loss of each example by the reference model, (n,) float64: a forward pass each."""
    lm = load_model(reference, device)
    lm.forward = terms_forward(lm, vocabulary(reference))
    columns, losses = Columns(lm, lm, examples, device, 0), np.full(len(examples), np.nan)
    for at, chunk in columns.chunks(np.arange(len(examples)), frozenset({"loss"})):
        losses[at] = chunk["loss"].cpu().numpy()
    return losses


def picking(
    dataset: Steps,
    trained: Any,
    lm: Any,
    model: Model,
    *,
    rows: int,
    seed: int,
    folder: Path,
    reference: np.ndarray | None = None,
) -> Picking | None:
    """The rule of the dataset's options, started; None where there is none.

    The first `rows` of the dataset's examples are those of the run; parts of the log of picks go
    to `folder`.
    """
    chosen = dataset.options.online
    if chosen is None:
        return None
    rule = online.build(chosen.method, chosen.options)
    columns = Columns(trained, lm, dataset.examples, dataset.device, seed)
    head = None
    if chosen.method == "uds":
        _check_length(rule, dataset.examples.lengths[:rows])
        head = Head(lm, vocabulary(model))
        columns.bias = head.bias
        rule.start(seed, head=head.matrix())  # type: ignore[call-arg]
    elif chosen.method == "bds":
        width = int(lm.config.get_text_config().hidden_size)
        rule.start(seed, rows=rows, width=width)  # type: ignore[call-arg]
    else:
        rule.start(seed)
    return Picking(
        rule,
        dataset,
        columns,
        keep=chosen.keep,
        group=chosen.group,
        rows=rows,
        seed=seed,
        picks=Picks(folder),
        reference=reference,
        head=head,
    )


def _check_length(rule: Any, lengths: np.ndarray) -> None:
    if lengths.max() > rule.max_length:
        raise DataError(
            f"tune.online: uds projects {rule.max_length} positions and the longest row has "
            f"{lengths.max()} tokens: raise tune.online.options.max_length or lower tune.max_length"
        )
