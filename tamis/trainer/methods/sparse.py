"""Some entries of weight matrices, trained as short vectors while the matrices stay frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Products of one entry and one token that are held at once while entries are gathered.
_AT_ONCE = 2**22


class Entries:
    """The entries `index` (flat, row by row) of a linear layer's weight as a parameter (k,).

    The parameter `entries` stands in the layer; `write` puts it into the weight, which then is what
    the forward pass multiplies with, so a pass costs what it always did. The gradient of the k
    entries alone is kept: `dense` makes that of the whole matrix for the moment it takes to read
    them off; otherwise they are gathered a block of tokens at a time, and no matrix is made.
    `delta` trains the change (0 at first) in place of the value, so that weight decay draws to the
    start and not to 0.

    While it stands, the weight is a buffer of the layer; `release` makes the layer as it was, with
    what was learnt.
    """

    def __init__(self, layer: Any, index: Any, *, dense: bool, delta: bool):
        import torch

        self.layer, self.dense, self.delta = layer, dense, delta
        self.heard: Callable[[Any], None] | None = None
        weight = layer.weight.detach()
        del layer.weight
        layer.register_buffer("weight", weight)
        layer.register_parameter("entries", torch.nn.Parameter(weight.new_zeros(len(index))))
        self.choose(index)
        self._hook = layer.register_forward_hook(self._tap)

    @property
    def values(self) -> Any:
        """The trained parameter (k,)."""
        return self.layer.entries

    def choose(self, index: Any) -> None:
        """Train these entries from here on; the others keep what they have learnt."""
        import torch

        size = self.layer.weight.numel()
        # A row number for every entry would take twice the memory.
        self.index = index.to(torch.int32 if size < 2**31 else torch.int64)
        now = self.layer.weight.view(-1)[index.long()]
        self.start = now if self.delta else torch.zeros_like(now)
        self.values.data = now - self.start

    def write(self) -> None:
        """Put the trained values into the weight."""
        now = self.start + self.values.detach()
        self.layer.weight.view(-1)[self.index.long()] = now

    def swap(self, at: Any, index: Any) -> None:
        """Train the entries `index` in the place of those at `at` (positions), which lose what they
        learnt; the new ones begin at 0. For changes only."""
        flat = self.layer.weight.view(-1)
        flat[self.index[at].long()] = self.start[at]
        self.index[at] = index.to(self.index)
        self.start[at] = flat[index.long()]
        self.values.data[at] = 0

    def take_up(self, index: Any) -> None:
        """Train the entries of a checkpoint, whose values are in `values` already, upon the weights
        as they came. For changes only."""
        flat = self.layer.weight.view(-1)
        flat[self.index.long()] = self.start
        self.index = index.to(self.index)
        self.start = flat[self.index.long()]
        self.write()

    def release(self) -> None:
        """Give the layer back its weight as a parameter."""
        import torch

        self._hook.remove()
        weight = self.layer.weight
        del self.layer.weight, self.layer.entries
        self.layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    def _tap(self, layer: Any, given: tuple[Any, ...], out: Any) -> Any:
        return _tap().apply(out, given[0].detach(), self.values, self)

    def gradient(self, back: Any, inputs: Any) -> Any:
        """That of the entries (k,), from what comes back to the outputs, and the inputs."""
        g, x = back.flatten(0, -2), inputs.flatten(0, -2).to(back.dtype)
        index = self.index.long()
        if self.dense:
            whole = (g.T @ x).view(-1)
            # Rows that are only scored go backward too, in evaluation mode.
            if self.heard is not None and self.layer.training:
                self.heard(whole)
            return whole[index].float()
        width = x.shape[1]
        row, column = index // width, index % width
        total = g.new_zeros(len(index)).float()
        tokens = max(1, _AT_ONCE // len(index))
        for some, there in zip(g.split(tokens), x.split(tokens), strict=True):
            total += (some[:, row].float() * there[:, column].float()).sum(0)
        return total


@cache
def _tap() -> Any:
    import torch

    class Tap(torch.autograd.Function):
        """Hands outputs through, and the gradient of entries to where they are kept."""

        @staticmethod
        def forward(ctx: Any, out: Any, inputs: Any, values: Any, entries: Entries) -> Any:
            ctx.save_for_backward(inputs)
            ctx.entries = entries
            return out.view_as(out)

        @staticmethod
        def backward(ctx: Any, back: Any) -> Any:
            (inputs,) = ctx.saved_tensors
            return back, None, ctx.entries.gradient(back, inputs), None

    return Tap


def attach(
    layers: Mapping[str, Any], choose: Callable[[Any], Any], *, dense: bool, delta: bool
) -> dict[str, Entries]:
    """Entries of every layer, those that `choose(weight)` gives as flat indices."""
    return {
        name: Entries(layer, choose(layer.weight.detach()), dense=dense, delta=delta)
        for name, layer in layers.items()
    }


def save_shira(
    changes: Mapping[str, tuple[Any, Any]],
    shapes: Mapping[str, tuple[int, int]],
    rank: int,
    base: str,
    folder: Path,
) -> None:
    """Write changes as a SHiRA that plain peft reads; `changes` are name -> (flat index, values).

    Each layer of m x n must have exactly rank (m + n) of them: peft counts on it.
    """
    import torch
    from peft import ShiraConfig, TaskType
    from safetensors.torch import save_file

    config = ShiraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        r=rank,
        target_modules=sorted(changes),
        inference_mode=True,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tensors = {}
    for name, (index, values) in changes.items():
        width = shapes[name][1]
        places = torch.stack((index.long() // width, index.long() % width)).int()
        tensors[f"base_model.model.{name}.shira_indices"] = places.contiguous().cpu()
        tensors[f"base_model.model.{name}.shira_weight"] = values.detach().contiguous().cpu()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
