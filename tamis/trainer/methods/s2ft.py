"""S2FT: rows and columns of weight matrices, drawn over all layers, trained as dense slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods import plain_lora
from tamis.trainer.methods.base import Context, Method
from tamis.trainer.methods.parts import linears, whole_weights

# What a share of each projection is a share of, and whether columns (else rows) are trained.
_COLUMNS = {"down_proj": True, "o_proj": True, "up_proj": False, "v_proj": False}


@dataclass
class S2ft(Method):
    """A change of some input columns of `down_proj` and `o_proj`, and of some output rows of
    `up_proj` and `v_proj`, is trained; it begins at 0 (arXiv 2412.06289).

    The options are the shares: of channels for `down_proj` and `up_proj`, of heads for `o_proj`,
    of key-value heads for `v_proj`. The draw is over all layers at once, so layers get different
    numbers, some none. Of the columns' layers only the inputs that meet a trained column are kept
    for the backward pass.

    The authors' code permutes the weights so that what is trained lies together, mixes up heads
    and key-value heads there where these differ, and leaves weights that fit no plain base. Here
    rows and columns are indexed where they are: same mathematics, and the change is saved exactly
    as a plain LoRA, whose rank is the number of rows or columns.
    """

    name = "s2ft"
    about = About(
        sentence="Some rows and columns of the matrices, as dense slices.",
        needs="a model with layers called down_proj, up_proj, o_proj, v_proj",
        cost="gradients and moments of the slices; inputs of the trained columns alone",
        avoid="FSDP or ZeRO; other architectures",
    )
    source = "arXiv 2412.06289"
    kind = "adapter"
    learning_rate = 1e-3

    down_proj: float = 0.03
    up_proj: float = 0.0
    o_proj: float = 0.0
    v_proj: float = 0.0

    def check(self) -> None:
        """See `Method`."""
        shares = {name: getattr(self, name) for name in _COLUMNS}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise RecipeError(f"s2ft: {name}={share}: expected a share from 0 to 1")
        if not any(shares.values()):
            raise RecipeError("s2ft: all shares are 0, so nothing would be trained")
        whole_weights(self.name)

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        rng = np.random.default_rng(context.seed % 2**64)
        self.slices: dict[str, _Slice] = {}
        for name, columns in _COLUMNS.items():
            share = getattr(self, name)
            if share > 0:
                layers = linears(lm, [name])
                for full, places in _drawn(layers, _units(lm, name), share, columns, rng).items():
                    self.slices[full] = _Slice(layers[full], places, columns)
        if not self.slices:
            raise RecipeError("s2ft: the shares are less than one row of the model: raise them")
        return lm

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        updates = {name: part.factors() for name, part in self.slices.items()}
        for part in self.slices.values():
            part.release()
        plain_lora.save(updates, lm.name_or_path, folder)

    def facts(self) -> dict[str, Any]:
        """How many rows or columns of each layer are trained."""
        return {"trained": {name: len(part.index) for name, part in self.slices.items()}}


class _Slice:
    """A change of the rows or columns `index` of a layer's weight, added beside it."""

    def __init__(self, layer: Any, index: np.ndarray, columns: bool):
        import torch

        self.layer, self.columns = layer, columns
        weight = layer.weight
        self.index = torch.as_tensor(index, device=weight.device)
        shape = (len(weight), len(index)) if columns else (len(index), weight.shape[1])
        change = torch.nn.Parameter(weight.new_zeros(shape), requires_grad=True)
        layer.register_parameter("change", change)
        self._hook = layer.register_forward_hook(self._add)

    def _add(self, layer: Any, given: tuple[Any, ...], out: Any) -> Any:
        from torch.nn.functional import linear

        if self.columns:
            return out + linear(given[0][..., self.index], layer.change)
        part = linear(given[0], layer.change)
        return out.index_add(-1, self.index, part.to(out.dtype))

    def factors(self) -> tuple[Any, Any]:
        """B and A of the change as a product: itself, and which rows or columns it is of."""
        import torch

        m, n = self.layer.weight.shape
        change = self.layer.change.detach()
        chosen = torch.nn.functional.one_hot(self.index, n if self.columns else m).to(change)
        return (change, chosen) if self.columns else (chosen.T, change)

    def release(self) -> None:
        """Take the change off the layer."""
        self._hook.remove()
        del self.layer.change


def _units(lm: Any, name: str) -> int | None:
    """How many heads the rows or columns of a projection are of; None where each is its own."""
    config = lm.config.get_text_config()
    heads = {"o_proj": "num_attention_heads", "v_proj": "num_key_value_heads"}
    return int(getattr(config, heads[name])) if name in heads else None


def _drawn(
    layers: dict[str, Any], units: int | None, share: float, columns: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The rows or columns of each layer that are drawn; layers without any are left out."""
    sizes = {name: layer.weight.shape[1 if columns else 0] for name, layer in layers.items()}
    counts = {name: units or size for name, size in sizes.items()}
    owner = np.repeat(np.arange(len(layers)), list(counts.values()))
    taken = rng.choice(len(owner), int(share * len(owner)), replace=False)
    begins = np.cumsum([0, *counts.values()])
    found = {}
    for i, name in enumerate(layers):
        mine = np.sort(taken[owner[taken] == i] - begins[i])
        width = sizes[name] // counts[name]
        if len(mine):
            found[name] = (mine[:, None] * width + np.arange(width)).ravel()
    return found
