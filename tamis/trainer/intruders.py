"""Intruder dimensions: leading directions of tuned weights that the weights did not have before."""

from __future__ import annotations

from typing import Any

from tamis.trainer.methods.parts import linears
from tamis.trainer.online.columns import still

# Of each matrix the leading directions that are looked at, and the cosine below which one is new:
# those of the mitigation in peft.
LEADING = 10
NEW_BELOW = 0.5


class Intruders:
    """Remembers the directions of all linear layers but the output layer, and counts new ones.

    A left singular vector of the 10 largest values of a tuned matrix is an intruder where its
    cosine with every left singular vector before tuning is below 0.5. Full fine-tuning makes few,
    LoRA of a low rank more, and these go with forgetting. Holds as many numbers as the matrices,
    on the CPU; an SVD of each matrix at the start and at each count.

    Source: Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", 2024
    (arXiv 2410.21228).
    """

    def __init__(self, lm: Any):
        self.before = {
            name: _directions(layer.weight.detach(), None).cpu()
            for name, layer in linears(lm).items()
        }

    def mean(self, lm: Any) -> float:
        """Intruders of a matrix on average, from 0 to 10. Weights are taken as they act: with what
        an adapter, or a method beside the layer, adds to them."""
        import torch

        found = 0
        with still(lm):
            for name, before in self.before.items():
                now = _directions(acting(lm.get_submodule(name)), LEADING)
                alike = (now.T @ before.to(now.device)).abs().amax(dim=1)
                found += int(torch.count_nonzero(alike < NEW_BELOW))
        return found / len(self.before)


def _directions(weight: Any, count: int | None) -> Any:
    import torch

    return torch.linalg.svd(weight.float(), full_matrices=False).U[:, :count]


def acting(layer: Any) -> Any:
    """The matrix (m, n) that a layer multiplies inputs with, whatever stands around it."""
    import torch

    width = int(layer.in_features)
    device = next(layer.parameters()).device
    rows = torch.eye(width, device=device)
    return (layer(rows) - layer(torch.zeros_like(rows[:1]))).T
