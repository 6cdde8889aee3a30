"""Virtual tokens before every row: prompt tuning, prefix tuning, P-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter
from tamis.trainer.methods.base import Context

VIRTUAL_AVOID = (
    "packed rows, which would share the virtual tokens; generation then costs them each time"
)


class Virtual(Adapter):
    """What rows see first is trained: nothing inside the model changes."""

    packable: ClassVar[bool] = False
    exact_start: ClassVar[bool] = False

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`. Raises `RecipeError` where rows would pass the model's limit."""
        trained = super().prepare(lm, context)
        virtual = trained.peft_config["default"].num_virtual_tokens
        limit = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and virtual + context.longest > limit:
            raise RecipeError(
                f"{self.name}: {virtual} virtual tokens before the longest row of "
                f"{context.longest} pass the model's limit of {limit}: lower tune.max_length to "
                f"{limit - virtual} or less"
                if virtual < limit
                else f"{self.name}: {virtual} virtual tokens leave no room in the model's {limit}"
            )
        return trained


@dataclass
class Prompt(Virtual):
    """`tokens` trained embeddings before each row (arXiv 2104.08691), by peft.

    They begin as embeddings of random tokens of the vocabulary, or as normal noise.
    """

    name = "prompt"
    about = About(
        sentence="Trained embeddings before each row.",
        needs="packing: none",
        cost="tokens x width numbers; each row is so much longer",
        avoid=VIRTUAL_AVOID,
    )
    source = "arXiv 2104.08691"
    learning_rate = 1e-2

    tokens: int = 20
    init: Literal["vocabulary", "random"] = "vocabulary"

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import PromptTuningConfig, TaskType

        return PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=self.tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if self.init == "vocabulary" else "RANDOM",
        )


@dataclass
class Prefix(Virtual):
    """Trained keys and values of `tokens` positions in every layer (arXiv 2101.00190), by peft.

    With `width` they come out of a network of that width, which is trained and then left behind.
    """

    name = "prefix"
    about = About(
        sentence="Trained keys and values before each row, in every layer.",
        needs="packing: none",
        cost="2 x tokens x layers x width numbers; no activation checkpointing",
        avoid=VIRTUAL_AVOID,
    )
    source = "arXiv 2101.00190"
    learning_rate = 1e-2
    checkpointing = False

    tokens: int = 20
    width: int | None = None

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import PrefixTuningConfig, TaskType

        return PrefixTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=self.tokens,
            prefix_projection=self.width is not None,
            encoder_hidden_size=self.width or 0,
        )


@dataclass
class PTuning(Virtual):
    """Embeddings before each row that come out of a small MLP (arXiv 2103.10385), by peft.

    The network is trained; what it gives is saved.
    """

    name = "p_tuning"
    about = About(
        sentence="Embeddings before each row, made by a small network.",
        needs="packing: none",
        cost="the network while training, tokens x width numbers after",
        avoid=VIRTUAL_AVOID,
    )
    source = "arXiv 2103.10385"
    learning_rate = 1e-3

    tokens: int = 20
    width: int = 128

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import PromptEncoderConfig, TaskType

        return PromptEncoderConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=self.tokens,
            encoder_hidden_size=self.width,
        )
