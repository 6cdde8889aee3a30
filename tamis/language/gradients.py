"""The gradient of each row's loss, for whole batches at once: its norm and a projection of it.

The gradient of a linear layer's weight for one row is the sum over its tokens of outer(d, x), x the
input of the layer and d the gradient at its output. One backward pass of the summed losses gives d
for all rows, since no row looks at another; norms and projections follow from x and d.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np

from tamis.errors import RecipeError, TamisError
from tamis.language.forward import Done, Engine, Pass, pad
from tamis.language.network import Padded, SplitNetwork, chunk, inputs
from tamis.numerics.device import resolve

_ADAPTED = ("lora_A", "lora_B")


class _Tape(threading.local):
    """What passed the layers in this thread: name -> (input, output)."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Any, Any]] = {}


@dataclass(frozen=True)
class Gradients:
    """Gradients of the mean loss of a row's targets, by the weights of some linear layers.

    Those of the last `blocks` blocks of the model (0: all) whose path holds a name of `modules`
    (none: all); of a model with an adapter, the adapter's factors there. `dimension` numbers a row
    are kept of the gradient g: the sum over layers of P_out G P_in^T, entries of P_out and P_in +-1
    by `seed` and the layer's name, scaled so that dot products are those of g on average. With G
    P_in^T instead of G it would be the gradient of a fresh LoRA's second factor.
    """

    engine: Engine
    modules: tuple[str, ...] = ()
    blocks: int = 1
    dimension: int = 1024
    seed: int = 0
    _tape: _Tape = field(default_factory=_Tape, init=False, repr=False, compare=False)

    def run(
        self, passes: Sequence[Pass], *, done: Done | None = None
    ) -> list[tuple[float, np.ndarray] | None]:
        """The norm and the projection, float32 (dimension,), of each pass; None without a target.

        In the order of `passes`; batches, threads and memory as in `Engine.run`, and equal to a
        backward pass a row up to rounding (1e-6 in float32). Cost: a forward pass and a backward
        pass that ends at the first of the layers.
        """
        widths = np.array([p.width for p in passes], dtype=np.int64)
        device, signs = resolve(self.engine.device), self._signs

        def compute(rows: np.ndarray) -> list[tuple[float, np.ndarray]]:
            return self._batch(pad([passes[i] for i in rows], widths[rows], device), signs)

        with self._recording():
            return self.engine.each(widths, compute, done=done)

    @cached_property
    def layers(self) -> dict[str, Any]:
        """The linear layers by name. Raises `RecipeError` when there are none."""
        linear = {
            name: layer
            for name, layer in _root(self.engine.network).named_modules()
            if type(layer).__name__ in ("Linear", "Conv1D") and _block(name) >= 0
        }
        if self.engine.model.adapter is not None:
            linear = {n: layer for n, layer in linear.items() if set(n.split(".")) & set(_ADAPTED)}
        last = max(map(_block, linear), default=0)
        found = {
            name: layer
            for name, layer in linear.items()
            if (not self.blocks or _block(name) > last - self.blocks)
            and (not self.modules or set(name.split(".")) & set(self.modules))
        }
        if not found:
            known = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise RecipeError(
                f"no linear layer of {self.engine.model.location} is named "
                f"{', '.join(self.modules)}; there are {', '.join(known)}"
            )
        return found

    @contextmanager
    def _recording(self) -> Iterator[None]:
        _root(self.engine.network).requires_grad_(False)
        hooks = [
            layer.register_forward_hook(self._recorder(name)) for name, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(layer: Any, args: tuple[Any, ...], out: Any) -> None:
            if name in self._tape.seen:
                raise TamisError(f"layer {name} runs twice in a pass: leave it out of modules")
            if not out.requires_grad:
                out.requires_grad_()  # the weights are frozen: the graph begins here
            self._tape.seen[name] = (args[0].detach(), out)

        return record

    def _batch(self, batch: Padded, signs: Mapping[str, Any]) -> list[tuple[float, np.ndarray]]:
        import torch

        self._tape.seen.clear()
        with torch.enable_grad():
            ends, sources = _loss_gradient(self.engine.network, batch)
            seen = dict(self._tape.seen)
            self._tape.seen.clear()
            given = torch.autograd.grad(ends, [out for _, out in seen.values()], sources)
        b, t = batch.ids.shape
        square = torch.zeros(b, dtype=torch.float64, device=batch.ids.device)
        vector = torch.zeros(b, *self._sides, device=batch.ids.device)
        for (name, (x, _)), d in zip(seen.items(), given, strict=True):
            if x.shape[:2] != (b, t):
                raise TamisError(f"layer {name} mixes the rows of a batch: leave it out of modules")
            x, d = x.float(), d.float()
            square += square_norms(x, d)
            p_out, p_in = signs[name]
            vector += (d @ p_out).transpose(1, 2) @ (x @ p_in)
        norms, vectors = square.sqrt().tolist(), vector.reshape(b, -1).cpu().numpy()
        return list(zip(norms, vectors, strict=True))

    @property
    def _sides(self) -> tuple[int, int]:
        """Two numbers near each other whose product is the dimension."""
        side = next(k for k in range(isqrt(self.dimension), 0, -1) if self.dimension % k == 0)
        return side, self.dimension // side

    @cached_property
    def _signs(self) -> dict[str, tuple[Any, Any]]:
        """P_out^T (q, .) and P_in^T (p, .) of each layer."""
        import torch

        made = {}
        for name, layer in self.layers.items():
            rng = np.random.default_rng([self.seed, *name.encode()])
            shape = layer.weight.shape
            sizes = shape if type(layer).__name__ == "Linear" else reversed(shape)
            made[name] = tuple(
                torch.from_numpy(
                    ((rng.integers(2, size=(n, k)) * 2 - 1) / np.sqrt(k)).astype(np.float32)
                ).to(layer.weight.device)
                for n, k in zip(sizes, self._sides, strict=True)
            )
        return made


def square_norms(x: Any, d: Any) -> Any:
    """|sum_t outer(d_t, x_t)|^2 of each row, float64 (b,), from `x` (b, t, p) and `d` (b, t, q).

    Short rows by Gram matrices, t^2 (p + q), in float64 where the tokens nearly cancel; long ones
    by the sum itself, a row at a time, t p q.
    """
    import torch

    t, p, q = x.shape[1], x.shape[2], d.shape[2]
    if t * (p + q) >= p * q:
        rows = [(di.T @ xi).square().sum(dtype=torch.float64) for di, xi in zip(d, x, strict=True)]
        return torch.stack(rows)
    found = _grams(x, d)
    apart = (d.square().sum(dim=2) * x.square().sum(dim=2)).sum(dim=1)
    if bool((found < apart / 100).any()):
        found = _grams(x.double(), d.double())
    return found.clamp_min(0)


def _grams(x: Any, d: Any) -> Any:
    import torch

    both = (d @ d.transpose(1, 2)).mul_(x @ x.transpose(1, 2))
    return both.sum(dim=(1, 2), dtype=torch.float64)


def _loss_gradient(network: Any, batch: Padded) -> tuple[Any, Any]:
    """Where the head begins, and the gradient there of the summed mean losses of the rows."""
    import torch

    weight = 1 / torch.bincount(batch.row)[batch.row]
    if not isinstance(network, SplitNetwork):
        logits = network.model(**inputs(batch)).logits
        loss = _losses(logits[batch.row, batch.before], batch.token, weight)
        return loss, torch.ones_like(loss)
    wanted = network.hidden(batch)[batch.row, batch.before]
    size = chunk(wanted, network.vocabulary)
    sources = []
    parts = (values.split(size) for values in (wanted, batch.token, weight))
    for rows, tokens, part in zip(*parts, strict=True):
        # A chunk of logits at a time, forward and backward.
        start = rows.detach().requires_grad_()
        sources += torch.autograd.grad(_losses(network.head(start), tokens, part), start)
    return wanted, torch.cat(sources)


def _losses(logits: Any, tokens: Any, weight: Any) -> Any:
    from torch.nn.functional import cross_entropy

    return (cross_entropy(logits.float(), tokens, reduction="none") * weight).sum()


def _root(network: Any) -> Any:
    return network.backbone if isinstance(network, SplitNetwork) else network.model


def _block(name: str) -> int:
    """The number of the block a module belongs to, the first number of its path; -1 outside."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else -1
