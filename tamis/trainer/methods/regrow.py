"""Which entries of a matrix are trained next: some of those that moved least give way to others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.trainer import launch


def exchange(
    index: Any, values: Any, candidates: Any, scores: Any, count: int
) -> tuple[Any, Any, Any]:
    """Drop the `count` entries whose values are smallest in size, and grow as many candidates of
    the highest scores: the positions in `index` that change, the entry each is given, and which
    candidate that is.

    Candidates that stay trained anyway are left out; an entry that is dropped and grown at once
    stays as it is. With fewer candidates than places, the smallest entries go.
    """
    import torch

    order = torch.topk(values.abs(), count, largest=False, sorted=True).indices
    gone = torch.zeros(len(index), dtype=torch.bool, device=index.device)
    gone[order] = True
    number = torch.arange(len(candidates), device=index.device)
    number = number[~torch.isin(candidates, index[~gone])]
    best = torch.topk(scores[number], min(count, len(number)), sorted=True).indices
    number = number[best]
    stays = torch.isin(index[order], candidates[number])
    number = number[~torch.isin(candidates[number], index[order])]
    return order[~stays][: len(number)], candidates[number], number


class Candidates:
    """The `count` entries of a matrix whose gradient was largest in a first step, and the sums of
    their gradients and of the squares of these over some steps.

    A step's gradient is that of all its batches and processes. In the first step that of the whole
    matrix is held, to choose from.
    """

    def __init__(self, matrix: Any, count: int):
        self.matrix, self.count, self.steps = matrix, count, 0
        self.index: Any = None
        self.total: Any = None
        self.squares: Any = None
        self._now: Any = None

    def hear(self, gradient: Any) -> None:
        """Take in the gradient of the matrix (flat) in one batch."""
        part = gradient.float() if self.index is None else gradient[self.index.long()].float()
        self._now = part.clone() if self._now is None else self._now.add_(part)

    def close(self) -> None:
        """A step is over."""
        import torch

        if self._now is None:  # a process without rows in this step
            size = self.matrix.numel() if self.index is None else len(self.index)
            self._now = self.matrix.new_zeros(size).float()
        # Each process has as many times its part as there are processes: their mean is the whole.
        step, self._now = launch.summed(self._now) / launch.processes(), None
        if self.index is None:
            self.index = torch.topk(step.abs(), self.count, sorted=False).indices.sort().values
            step = step[self.index]
            self.total, self.squares = torch.zeros_like(step), torch.zeros_like(step)
        self.total += step
        self.squares.addcmul_(step, step)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors, once there are some."""
        if self.index is None:
            return {}
        return {"index": self.index, "total": self.total, "squares": self.squares}

    def load_state_dict(self, tensors: Mapping[str, Any], steps: int) -> None:
        """Go on where `state_dict` was taken, after so many steps."""
        self.steps = steps
        for name in tensors:
            setattr(self, name, tensors[name])
