"""What can be said of an `online` block without model and rows."""

from __future__ import annotations

from tamis.errors import RecipeError
from tamis.recipe import Tune
from tamis.selectors import online
from tamis.selectors.online import BatchPicker
from tamis.trainer.methods.parts import whole_weights
from tamis.trainer.online.columns import FREE

TRUSTING = {"bds": "trains on them beside the candidates", "greats": "steers by their gradients"}


def check(options: Tune) -> BatchPicker | None:
    """The rule of a tune block, built; None where there is none.

    Raises `RecipeError` for unknown names and options and for what does not go together.
    """
    chosen = options.online
    if chosen is None:
        return None
    rule = online.build(chosen.method, chosen.options)
    if rule.needs() - FREE:
        # The processes score rows by themselves, not all at the same time.
        whole_weights(f"tune.online: {chosen.method}", "method: random there")
    if chosen.method in TRUSTING and chosen.safe is None:
        raise RecipeError(
            f"tune.online: {chosen.method} needs trusted rows and {TRUSTING[chosen.method]}: name "
            "their files in tune.online.safe"
        )
    if chosen.method not in TRUSTING and chosen.safe is not None:
        raise RecipeError(f"tune.online: {chosen.method} reads no trusted rows: leave safe out")
    if chosen.method != "rho_loss" and chosen.reference is not None:
        raise RecipeError(f"tune.online: {chosen.method} takes no reference: leave it out")
    if chosen.method == "bds" and chosen.group is not None:
        raise RecipeError(
            "tune.online: bds learns from all rows of a step at once: leave group out"
        )
    if chosen.method == "bds" and options.objective.method != "sft":
        raise RecipeError(
            "tune.online: bds has a loss of its own, the mean over rows of their weighted mean "
            f"losses: leave the objective {options.objective.method} out"
        )
    return rule
