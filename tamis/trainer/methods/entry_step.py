"""What the optimizers of sparse entries share: a step is one of each parameter by itself."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def entry_step() -> type:
    """The class to build on, which gives `_one`; a function, so that importing this stays cheap."""
    import torch

    class EntryStep(torch.optim.Optimizer):
        """Calls `_one(parameter, group)` for each parameter that has a gradient."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """One step of every parameter that has a gradient."""
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._one(parameter, group)

        def _one(self, parameter: Any, group: dict[str, Any]) -> None:
            raise NotImplementedError

    return EntryStep
