"""What of the model is trained: one function a method, one table of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tamis.errors import RecipeError
from tamis.recipe import Tune

# Common practice for adapters; for full fine-tuning the upper end of what papers use.
LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}


def prepare(model: Any, options: Tune) -> Any:
    """The model with the parameters of `options.method` set up for training.

    Draws the initial values from torch's global generator.
    """
    return METHODS[options.method](model, options)


def learning_rate(options: Tune) -> float:
    """The learning rate of the options, or the method's default."""
    return options.learning_rate or LEARNING_RATES[options.method]


def _full(model: Any, options: Tune) -> Any:
    """All parameters."""
    return model.requires_grad_(True)


def _lora(model: Any, options: Tune) -> Any:
    """Low-rank updates beside linear layers: LoRA, 2021 (arXiv 2106.09685), by peft."""
    from peft import LoraConfig, TaskType, get_peft_model

    wanted = options.options.get("targets", "all-linear")
    head = {name.split(".")[-1] for name, m in model.named_modules() if _is_head(model, m)}
    if not isinstance(wanted, str) and head & {name.split(".")[-1] for name in wanted}:
        raise RecipeError(
            f"tune.options.targets names the output layer {sorted(head)[0]!r}: the loss never calls "
            "that layer as a whole; leave it out"
        )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=options.options.get("rank", 16),
        lora_alpha=options.options.get("alpha", 32),
        lora_dropout=options.options.get("dropout", 0.0),
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
    )
    try:
        with warnings.catch_warnings():
            # peft reads an attribute under the name it had before.
            warnings.simplefilter("ignore", FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(
            f"tune.options.targets {wanted!r}: {str(error).splitlines()[0]}"
        ) from error


def _is_head(model: Any, module: Any) -> bool:
    return module is model.get_output_embeddings()


METHODS: dict[str, Callable[[Any, Tune], Any]] = {"lora": _lora, "full": _full}
