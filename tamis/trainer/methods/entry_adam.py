"""Adam as LIFT steps: one count of steps a tensor, epsilon beside the uncorrected root."""

from __future__ import annotations

from functools import cache
from typing import Any

from tamis.trainer.methods.entry_step import entry_step


@cache
def entry_adam() -> type:
    """The optimizer class; a function, so that importing this stays cheap."""
    import torch

    class EntryAdam(entry_step()):
        """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; the step is
        lr sqrt(1 - b2^s) / (1 - b1^s) m / (sqrt(v) + eps). Weight decay shrinks the result by
        lr x decay. torch's AdamW divides by sqrt(v / (1 - b2^s)) + eps and shrinks before.
        """

        def __init__(
            self,
            params: Any,
            lr: float,
            betas: tuple[float, float] = (0.9, 0.95),
            eps: float = 1e-6,
            weight_decay: float = 0.0,
        ):
            known = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
            super().__init__(params, known)

        def _one(self, parameter: Any, group: dict[str, Any]) -> None:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            gradient, (b1, b2), rate = parameter.grad, group["betas"], group["lr"]
            mean, square = state["exp_avg"], state["exp_avg_sq"]
            mean.lerp_(gradient, 1 - b1)
            square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            size = rate * (1 - b2 ** state["step"]) ** 0.5 / (1 - b1 ** state["step"])
            parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-size)
            parameter.mul_(1 - rate * group["weight_decay"])

    return EntryAdam
