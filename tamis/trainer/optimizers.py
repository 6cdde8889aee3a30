"""Optimizers by name: what transformers calls them, what they need, what they do not go with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tamis.errors import MissingPackage, RecipeError
from tamis.recipe import Tune
from tamis.registry import nearest
from tamis.trainer.methods.base import Method


@dataclass(frozen=True, slots=True)
class Kind:
    """One optimizer: its name in transformers, what it does, the packages it imports, its options
    with their defaults.

    `dense` says that it works on whole weight matrices, so adapters gain nothing; `decays` that it
    knows weight decay; `fused` that it changes weights during the backward pass. `state` is the
    class, by module and name, of which its saved state holds objects.
    """

    optim: str
    does: str
    packages: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dense: bool = False
    decays: bool = True
    fused: bool = False
    state: tuple[str, str] | None = None


_GALORE = {"rank": 128, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
_APOLLO = {**_GALORE, "scale": 1.0, "proj": "random", "scale_type": "channel"}
_BNB = ("bitsandbytes",)
_ADEMAMIX = {"beta3": 0.9999, "alpha": 5.0}

OPTIMIZERS = {
    "adamw": Kind("adamw_torch_fused", "AdamW, betas 0.9 and 0.999"),
    "adamw_8bit": Kind("adamw_8bit", "AdamW with moments in 8 bits", _BNB),
    "paged_adamw_8bit": Kind("paged_adamw_8bit", "the same, moments on the CPU when short", _BNB),
    "lion": Kind("lion_32bit", "sign of a momentum: one moment; a third of AdamW's rate", _BNB),
    "ademamix": Kind("ademamix", "AdamW with a second, slow momentum", _BNB, _ADEMAMIX),
    "adafactor": Kind("adafactor", "second moment as a row and a column"),
    "sgd": Kind("sgd", "plain gradient descent", options={"momentum": 0.0, "nesterov": False}),
    "galore_adamw": Kind(
        "galore_adamw",
        "AdamW on gradients projected to a low rank (arXiv 2403.03507)",
        ("galore_torch", *_BNB),
        _GALORE,
        dense=True,
        decays=False,
        state=("galore_torch.galore_projector", "GaLoreProjector"),
    ),
    "apollo_adamw": Kind(
        "apollo_adamw",
        "gradients scaled by a low-rank AdamW (arXiv 2412.05270)",
        ("apollo_torch", *_BNB),
        _APOLLO,
        dense=True,
        decays=False,
        state=("apollo_torch.random_projector", "GradientProjector"),
    ),
    "lomo": Kind(
        "lomo",
        "gradient descent during the backward pass (arXiv 2306.09782)",
        ("lomo_optim",),
        dense=True,
        decays=False,
        fused=True,
    ),
    "schedule_free_adamw": Kind(
        "schedule_free_adamw",
        "AdamW that averages in place of a schedule (arXiv 2405.15682)",
        ("schedulefree",),
        {"weight_lr_power": 2.0, "r": 0.0},
    ),
    "stable_adamw": Kind("stable_adamw", "AdamW with clipped updates", ("optimi",)),
}
# What pip calls a package where that is not its import name with dashes.
_DISTRIBUTION = {"optimi": "torch-optimi"}


def check(options: Tune, method: Method) -> None:
    """Raise `RecipeError` for an optimizer, or options of it, that cannot train as the block says,
    `MissingPackage` with the command that installs what is absent. Imports nothing."""
    name = options.optimizer
    if name.endswith("_layerwise"):
        raise RecipeError(
            f"tune.optimizer {name}: steps weight by weight during the backward pass, but a step "
            f"here may be several batches; use {name.removesuffix('_layerwise')}"
        )
    if name not in OPTIMIZERS:
        raise RecipeError(f"there is no optimizer {name!r}{nearest(name, list(OPTIMIZERS))}")
    kind = OPTIMIZERS[name]
    for option, value in options.optimizer_options.items():
        _check_option(name, option, value)
    if name != "adamw" and type(method).optimizer is not Method.optimizer:
        raise RecipeError(
            f"tune.optimizer {name}: {method.name} steps in its own way; leave optimizer out"
        )
    if kind.dense and (method.kind != "full" or method.steps_itself):
        raise RecipeError(
            f"tune.optimizer {name} saves memory on whole weights, which {method.name} does not "
            "train by gradients: set method: full, or optimizer: adamw"
        )
    if options.weight_decay > 0 and not kind.decays:
        raise RecipeError(f"tune.optimizer {name} knows no weight decay: set weight_decay: 0")
    if name == "schedule_free_adamw" and options.scheduler != "constant":
        raise RecipeError(f"tune.optimizer {name} takes the place of one: set scheduler: constant")
    for package in kind.packages:
        if find_spec(package) is None:
            called = _DISTRIBUTION.get(package, package.replace("_", "-"))
            raise MissingPackage(
                f"tune.optimizer {name} needs the package {called!r}, which is not installed: "
                f"run pip install {called}"
            )


def describe(name: str) -> dict[str, Any]:
    """What the optimizer does, the packages it needs, its options and their defaults."""
    kind = OPTIMIZERS[name]
    called = [_DISTRIBUTION.get(p, p.replace("_", "-")) for p in kind.packages]
    needs = ", ".join(called) or "nothing"
    return {
        "sentence": f"{kind.does[0].upper()}{kind.does[1:]}.",
        "needs": needs,
        "options": dict(kind.options),
    }


def arguments(options: Tune) -> dict[str, Any]:
    """What `TrainingArguments` is told: `optim`, its options, and where it works on."""
    kind = OPTIMIZERS[options.optimizer]
    given = ",".join(f"{name}={value}" for name, value in options.optimizer_options.items())
    told = {"optim": kind.optim, "optim_args": given or None}
    # Only layers inside blocks: the output layer is as wide as the vocabulary.
    inside = [r".*\.\d+\..*"]
    return {**told, "optim_target_modules": inside} if kind.dense and not kind.fused else told


@contextmanager
def loadable(options: Tune) -> Iterator[None]:
    """Let a checkpoint hold the objects this optimizer keeps in its state, and no others: they are
    rebuilt from tensors and plain values, nothing is called."""
    import torch

    state = OPTIMIZERS[options.optimizer].state
    known = [] if state is None else [getattr(import_module(state[0]), state[1])]
    with torch.serialization.safe_globals(known):
        yield


def check_step(options: Tune, step: int, batches: int) -> None:
    """Raise `RecipeError` where the optimizer would change weights in the middle of a step."""
    if batches > 1 and OPTIMIZERS[options.optimizer].fused:
        raise RecipeError(
            f"tune.optimizer {options.optimizer} changes weights during the backward pass, and "
            f"step {step} is {batches} batches: lower rows_per_step or raise batch_tokens"
        )


def _check_option(name: str, option: str, value: Any) -> None:
    known = OPTIMIZERS[name].options
    if option not in known:
        raise RecipeError(f"{name} has no option {option!r}{nearest(option, list(known))}")
    default = known[option]
    like = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, like) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise RecipeError(f"{name}.{option} must be like {default!r}, got {value!r}")
