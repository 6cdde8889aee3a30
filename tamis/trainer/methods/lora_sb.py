"""LoRA-SB and LoRA-XS: a small square matrix between two fixed factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods import plain_lora
from tamis.trainer.methods.base import Context, Method, State
from tamis.trainer.methods.parts import linears

_AT_ONCE = 3


class _Between(Method):
    """W + B R A with B (m, r) and A (r, n) fixed and R (r, r) trained, in every layer chosen."""

    kind = "adapter"
    rank: int
    targets: str | tuple[str, ...]

    def check(self) -> None:
        """See `Method`."""
        if self.rank < 1:
            raise RecipeError(f"{self.name}: rank={self.rank}: expected at least 1")

    def factors(self, layers: Mapping[str, Any], lm: Any, context: Context) -> dict[str, Any]:
        """B, R and A of every layer at the start."""
        raise NotImplementedError

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        layers = linears(lm, self.targets)
        self.cores = {
            name: _Core(layers[name], *three)
            for name, three in self.factors(layers, lm, context).items()
        }
        return lm

    def state_dict(self) -> State:
        """The fixed factors."""
        found = {}
        for name, core in self.cores.items():
            found |= {f"{name}.B": core.b, f"{name}.A": core.a}
        return found, {}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        for name, core in self.cores.items():
            core.b, core.a = (tensors[f"{name}.{x}"].to(core.a.device) for x in "BA")

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        updates = {n: (c.b @ c.layer.core.detach(), c.a) for n, c in self.cores.items()}
        for core in self.cores.values():
            core.release()
        plain_lora.save(updates, lm.name_or_path, folder)


@dataclass
class LoraSb(_Between):
    """The best update of rank r that the first step of sign descent allows, and from there R alone
    is trained (arXiv 2411.19557).

    The gradient of every weight is added up over `rows` training rows, three a batch, each batch by
    the mean of its tokens. D = -eta sign(gradient) is cut to rank r by SVD: B = U, A = V^T, R = S
    to begin with, so the first step starts a step away from the model as it came. `eta` is by
    default the rate of the first step of the warm-up, rate / warm-up steps. Saved as a plain LoRA,
    B R and A.

    The authors count warm-up steps on the loader of the gradient rows; keep factors in bfloat16,
    where they are orthogonal to a hundredth only; and use a randomised SVD.
    """

    name = "lora_sb"
    about = About(
        sentence="A small square matrix between factors of the first gradient.",
        needs="a backward pass over some training rows first",
        cost="gradients and moments of rank x rank numbers a layer; at the start one gradient of "
        "the weights on the CPU, and an SVD of each",
        avoid="data whose first rows say little of the rest",
    )
    source = "arXiv 2411.19557"
    learning_rate = 1e-4
    exact_start = False

    rank: int = 96
    rows: int = 50
    eta: float | None = None
    targets: str | tuple[str, ...] = "all-linear"

    def check(self) -> None:
        """See `Method`."""
        super().check()
        if self.rows < 1 or (self.eta is not None and self.eta <= 0):
            raise RecipeError("lora_sb: rows must be at least 1, and eta above 0")

    def factors(self, layers: Mapping[str, Any], lm: Any, context: Context) -> dict[str, Any]:
        """See `_Between`."""
        self.step = self.eta or context.rate / max(1, context.warmup)
        total = gradients(layers, lm, context, self.rows)
        device = context.device
        return {n: sign_factors(total.pop(n).to(device), self.step, self.rank) for n in layers}

    def facts(self) -> dict[str, Any]:
        """The size of the first step."""
        return {"eta": self.step}


@dataclass
class LoraXs(_Between):
    """B = U S and A = V^T are the r largest singular parts of the weight itself, and R alone is
    trained (arXiv 2405.17604). R begins at 0; the paper draws it from a very narrow normal. The
    default rate is ours and was not measured.
    """

    name = "lora_xs"
    about = About(
        sentence="A small square matrix between singular vectors of each weight.",
        needs="nothing",
        cost="gradients and moments of rank x rank numbers a layer; an SVD of each weight first",
        avoid="learning much that is new",
    )
    source = "arXiv 2405.17604"
    learning_rate = 1e-3

    rank: int = 64
    targets: str | tuple[str, ...] = "all-linear"

    def factors(self, layers: Mapping[str, Any], lm: Any, context: Context) -> dict[str, Any]:
        """See `_Between`."""
        found = {}
        for name, layer in layers.items():
            u, s, a = cut(layer.weight.detach().float(), self.rank)
            found[name] = (u * s, s.new_zeros(len(s), len(s)), a)
        return found


class _Core:
    """R (r, r) beside a layer, between fixed B and A."""

    def __init__(self, layer: Any, b: Any, r: Any, a: Any):
        import torch

        self.layer, self.b, self.a = layer, b, a
        layer.register_parameter("core", torch.nn.Parameter(r))
        self._hook = layer.register_forward_hook(self._add)

    def _add(self, layer: Any, given: tuple[Any, ...], out: Any) -> Any:
        from torch.nn.functional import linear

        inner = linear(linear(given[0], self.a), layer.core)
        return out + linear(inner, self.b)

    def release(self) -> None:
        """Take R off the layer."""
        self._hook.remove()
        del self.layer.core


def cut(matrix: Any, rank: int) -> tuple[Any, Any, Any]:
    """U (m, r), S (r,) and V^T (r, n) of the r largest singular values of a matrix (m, n)."""
    import torch

    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank].contiguous(), s[:rank].contiguous(), vt[:rank].contiguous()


def sign_factors(gradient: Any, eta: float, rank: int) -> tuple[Any, Any, Any]:
    """B, R and A: the best approximation of rank r of -eta sign(gradient); a gradient of 0 gives 0.

    Singular vectors have no sign of their own: B R A is what is determined.
    """
    u, s, vt = cut(-eta * gradient.sign(), rank)
    return u, s.diag(), vt


def gradients(layers: Mapping[str, Any], lm: Any, context: Context, rows: int) -> dict[str, Any]:
    """The sum over batches of the gradient of each batch's mean loss, by layer, on the CPU.

    A gradient is moved as soon as it is there, so the device holds that of one layer.
    """
    import torch

    total = {name: torch.zeros(layer.weight.shape) for name, layer in layers.items()}

    def collect(name: str) -> Any:
        def move(weight: Any) -> None:
            total[name] += weight.grad.float().cpu()
            weight.grad = None

        return move

    hooks, mode = [], lm.training
    for name, layer in layers.items():
        layer.weight.requires_grad_(True)
        hooks.append(layer.weight.register_post_accumulate_grad_hook(collect(name)))
    lm.eval()  # without dropout
    for batch in context.batches(rows, _AT_ONCE):
        lm(**batch)["nll"].mean().backward()
    lm.train(mode)
    for layer, hook in zip(layers.values(), hooks, strict=True):
        hook.remove()
        layer.weight.requires_grad_(False)
    return total
