"""Some rows of the embeddings: what new chat tokens need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.adapter import Adapter
from tamis.trainer.methods.base import Context


@dataclass
class TrainableTokens(Adapter):
    """The embeddings of the tokens `ids`, and nothing else, by peft.

    Where the output layer shares the embeddings, its rows move too. A token that is in no row of a
    step gets no gradient there.
    """

    name = "trainable_tokens"
    about = About(
        sentence="The embeddings of some tokens.",
        needs="ids",
        cost="ids x width numbers",
        avoid="teaching anything but tokens",
    )
    source = "peft"
    learning_rate = 1e-3

    example: ClassVar[Mapping[str, Any]] = {"ids": [0, 1]}

    ids: tuple[int, ...]

    def check(self) -> None:
        """See `Method`."""
        if not self.ids or min(self.ids) < 0:
            raise RecipeError("trainable_tokens: ids must name at least one token, from 0")

    def config(self, lm: Any, context: Context) -> Any:
        """See `Adapter`."""
        from peft import TaskType, TrainableTokensConfig

        size = lm.get_input_embeddings().num_embeddings
        if max(self.ids) >= size:
            raise RecipeError(
                f"trainable_tokens: id {max(self.ids)} is not in the vocabulary of {size} tokens"
            )
        return TrainableTokensConfig(
            task_type=TaskType.CAUSAL_LM, token_indices=sorted(set(self.ids))
        )
