"""MeZO: descent along random directions, by forward passes alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.adapter import layers, wrapped
from tamis.trainer.methods.base import Context, Method, State
from tamis.trainer.methods.parts import whole_weights

REPLAY = "mezo.json"
# Over all weights a step is tiny; a new adapter is small itself and takes larger ones.
_EPS = {"full": 1e-3, "lora": 1e-2}
_RATE = {"full": 1e-6, "lora": 5e-5}


@dataclass
class Mezo(Method):
    """Each step draws a direction z ~ N(0, 1), takes the loss of the whole step at theta + eps z
    and at theta - eps z, and moves theta by -rate (g z + decay theta) with
    g = (L+ - L-) / (2 eps); biases and norms do not decay (arXiv 2305.17333).

    No gradient, no moments, no stored activations: memory is that of inference. z comes from a
    generator keyed by seed and step and is drawn again where it is needed, so a run is its seed and
    one number a step: `mezo.json` beside the model holds them, and `replay` makes the weights again
    from those that training began with, to the bit on the same device. Both losses are without
    dropout, in float32, over all micro-batches of the step with the same z; the logged loss is L+.

    `over: lora` moves the matrices of a LoRA in place of all weights. `eps` and the rate are by
    default the authors' (1e-3 and 1e-6; over a LoRA 1e-2 and 5e-5), who keep the rate constant and
    take tens of thousands of steps. Their code draws from the global generator and knows no
    micro-batches. Clipping and optimizers do not apply.
    """

    name = "mezo"
    about = About(
        sentence="Random directions, judged by two forward passes a step.",
        needs="many steps; scheduler: constant and warmup: 0 as its authors use",
        cost="two forward passes and four draws of the weights' size a step; memory of inference",
        avoid="whenever a backward pass fits",
    )
    source = "arXiv 2305.17333"
    kind = "full"  # an adapter over a LoRA
    learning_rate = 1e-6
    steps_itself = True

    over: Literal["full", "lora"] = "full"
    eps: float | None = None
    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"

    def check(self) -> None:
        """See `Method`."""
        if self.eps is not None and self.eps <= 0:
            raise RecipeError(f"mezo: eps={self.eps}: expected a number above 0")
        if self.rank < 1 or self.alpha <= 0:
            raise RecipeError("mezo: rank must be at least 1, alpha above 0")
        whole_weights(self.name)
        self.kind = "full" if self.over == "full" else "adapter"
        self.learning_rate = _RATE[self.over]

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        self.seed, self.log = context.seed, _Log(self.eps or _EPS[self.over], [], [])
        if self.over == "full":
            return lm.requires_grad_(True)
        from peft import LoraConfig, TaskType

        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=int(self.alpha) if self.alpha == int(self.alpha) else self.alpha,
            target_modules=layers(lm, self.targets),
        )
        return wrapped(self.name, lm, lambda: config)

    def optimizer(self, trained: Any, rate: float, decay: float) -> Any | None:
        """One that holds the rate for the schedule, and never has a gradient to step by."""
        import torch

        self.moved = [p for p in trained.parameters() if p.requires_grad]
        self.decay = decay
        return torch.optim.SGD(self.moved, lr=rate)

    def training_step(self, loss: Callable[[], Any], step: int, rate: float) -> Any:
        """See `Method`."""
        draw = directions(self.seed, step, self.moved)
        upper, lower = probe(self.moved, draw, loss, self.log.eps)
        g = (float(upper) - float(lower)) / (2 * self.log.eps)
        move(self.moved, draw, g, rate, self.decay)
        self.log.g.append(g)
        self.log.rate.append(rate)
        return upper

    def state_dict(self) -> State:
        """What has been done so far."""
        return {}, {"g": self.log.g, "rate": self.log.rate}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        self.log = _Log(self.log.eps, list(values["g"]), list(values["rate"]))

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        super().save(lm, trained, folder)
        held = {"seed": self.seed, "eps": self.log.eps, "decay": self.decay}
        content = {**held, "g": self.log.g, "rate": self.log.rate}
        (folder / REPLAY).write_text(json.dumps(content), encoding="utf-8")


@dataclass
class _Log:
    eps: float
    g: list[float]
    rate: list[float]


def directions(seed: int, step: int, parameters: Sequence[Any]) -> Callable[[], Iterable[Any]]:
    """A function that draws z of one step, a tensor a parameter; each call draws the same."""
    import torch

    (key,) = np.random.SeedSequence([seed % 2**64, step]).generate_state(1, np.uint64)

    def draw() -> Iterable[Any]:
        rng = torch.Generator(parameters[0].device).manual_seed(int(key >> np.uint64(1)))
        for p in parameters:
            yield torch.randn(p.shape, generator=rng, device=p.device, dtype=p.dtype)

    return draw


def probe(
    parameters: Sequence[Any],
    draw: Callable[[], Iterable[Any]],
    loss: Callable[[], Any] | None,
    eps: float,
) -> tuple[Any, Any]:
    """The loss at theta + eps z and at theta - eps z; theta is where it was but for rounding.

    Without `loss` the same walk is made and nothing is asked: replaying repeats the rounding too.
    """
    ask = loss or (lambda: None)
    shift(parameters, draw, eps)
    upper = ask()
    shift(parameters, draw, -2 * eps)
    lower = ask()
    shift(parameters, draw, eps)
    return upper, lower


def shift(parameters: Sequence[Any], draw: Callable[[], Iterable[Any]], by: float) -> None:
    """theta += by z."""
    import torch

    with torch.no_grad():
        for parameter, z in zip(parameters, draw(), strict=True):
            parameter.add_(z, alpha=by)


def move(
    parameters: Sequence[Any],
    draw: Callable[[], Iterable[Any]],
    g: float,
    rate: float,
    decay: float,
) -> None:
    """theta -= rate (g z + decay theta); vectors, that is biases and norms, do not decay."""
    import torch

    with torch.no_grad():
        for parameter, z in zip(parameters, draw(), strict=True):
            if parameter.ndim > 1:
                parameter.mul_(1 - rate * decay)
            parameter.add_(z, alpha=-rate * g)


def replay(parameters: Sequence[Any], path: Path) -> None:
    """Carry the trained parameters, as they began, through the run that `mezo.json` tells of.

    `parameters` in the order of `model.parameters()`, of the dtype they were trained in (float32).
    """
    told = json.loads(path.read_text(encoding="utf-8"))
    for step, (g, rate) in enumerate(zip(told["g"], told["rate"], strict=True)):
        draw = directions(told["seed"], step, parameters)
        probe(parameters, draw, None, told["eps"])
        move(parameters, draw, g, rate, told["decay"])
