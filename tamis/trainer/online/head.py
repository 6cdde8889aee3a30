"""The output layer as a matrix, where the logits are hidden states times it."""

from __future__ import annotations

from typing import Any

from tamis.errors import RecipeError
from tamis.language.network import SplitNetwork, network
from tamis.selectors.online import BatchPicker


class Head:
    """W (V, h) of a language model, a bias as one more column.

    Raises `RecipeError` for a model whose logits are something else: capped or scaled ones, and an
    output layer that an adapter wraps.
    """

    def __init__(self, lm: Any, vocabulary: int):
        self.layer = lm.get_output_embeddings()
        if getattr(lm.config.get_text_config(), "final_logit_softcapping", None):
            raise RecipeError(
                "tune.online: uds takes hidden states times the output layer for the logits, and "
                f"{type(lm).__name__} caps them (final_logit_softcapping): choose another rule"
            )
        plain = type(self.layer).__name__ == "Linear" and not hasattr(self.layer, "base_layer")
        if not plain or not _split(lm, vocabulary):
            raise RecipeError(
                f"tune.online: uds needs the logits of {type(lm).__name__} to be hidden states "
                "times a plain output layer: leave the output layer out of what the method "
                "wraps, or choose another rule"
            )

    @property
    def trained(self) -> bool:
        """Whether a step may change it, by itself or as the embeddings it shares."""
        return any(p.requires_grad for p in self.layer.parameters())

    @property
    def bias(self) -> bool:
        """Whether it has a bias."""
        return self.layer.bias is not None

    def matrix(self) -> Any:
        """It as it is now, float32 or as trained."""
        import torch

        weight = self.layer.weight.detach()
        if not self.bias:
            return weight
        return torch.cat([weight, self.layer.bias.detach()[:, None]], dim=1)

    def give(self, rule: BatchPicker) -> None:
        """Let a rule that began with it go on with it as it is now."""
        rule.refresh(self.matrix())  # type: ignore[attr-defined]


def _split(lm: Any, vocabulary: int) -> bool:
    """Whether logits are the head of the last hidden states, by a probe of the model's own
    forward."""
    given = lm.__dict__.pop("forward", None)  # the loss in its place
    try:
        return isinstance(network(lm, vocabulary), SplitNetwork)
    finally:
        if given is not None:
            lm.forward = given
