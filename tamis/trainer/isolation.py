"""Whether rows packed behind each other stay apart inside a model."""

from __future__ import annotations

from typing import Any

from tamis.errors import RecipeError
from tamis.trainer.pack import Packing

_ROWS = (7, 9)
# Of the range of the logits. Rounding makes a hundredth of it, a row that is seen a hundred times.
_TOLERANCE = 1e-4


def check(lm: Any, vocabulary: int, packing: Packing) -> None:
    """Raise `RecipeError` for a packing whose rows this model would not keep apart.

    Positions that start anew do so in most architectures; recurrent and convolutional ones, and
    those that count positions themselves (OPT, BLOOM, Falcon, Mamba among others), read on. Tried
    on two short rows, with the model's own forward.
    """
    if packing == "none" or _apart(lm, vocabulary):
        return
    raise RecipeError(
        f"tune.packing {packing}: {type(lm).__name__} lets rows that are packed behind each other "
        "see each other: set packing: none"
    )


def _apart(lm: Any, vocabulary: int) -> bool:
    import torch

    device = next(lm.parameters()).device
    # Steps that share no factor with a size of two's make ids that do not repeat.
    ids = (torch.arange(sum(_ROWS), device=device) * 37 + 5) % vocabulary
    rows = ids.split(_ROWS)
    positions = torch.cat([torch.arange(n, device=device) for n in _ROWS])
    was = lm.training
    lm.eval()
    try:
        with torch.no_grad():
            alone = [lm(input_ids=row[None], use_cache=False).logits[0] for row in rows]
            given = {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}
            packed = lm(**given).logits[0]
    except TypeError:  # it knows no positions
        return False
    finally:
        lm.train(was)
    wanted = torch.cat(alone).float()
    gap = (packed.float() - wanted).abs().max()
    return bool(gap <= _TOLERANCE * (wanted.max() - wanted.min()))
