"""The last picked points, and how far new ones are from them on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Fifo:
    """A ring of at most `size` points of `width` float32 numbers; the oldest leaves first."""

    def __init__(self, size: int, width: int, device: Any = "cpu"):
        import torch

        self.points = torch.zeros(size, width, dtype=torch.float32, device=device)
        self.pointer, self.count = 0, 0

    def push(self, points: Any) -> None:
        """Add points in order. Points that are not finite are left out; of more than fit, the
        last stay."""
        import torch

        points = points[torch.isfinite(points).all(dim=1)].to(self.points)[-len(self.points) :]
        at = (self.pointer + torch.arange(len(points))) % len(self.points)
        self.points[at.to(self.points.device)] = points
        self.pointer = (self.pointer + len(points)) % len(self.points)
        self.count = min(self.count + len(points), len(self.points))

    def mean_distance(self, points: Any) -> Any:
        """Mean Euclidean distance of each point to those held, (B,) float64; 0 when there are
        none."""
        import torch

        if not self.count:
            return torch.zeros(len(points), dtype=torch.float64, device=points.device)
        held = self.points[: self.count].double()
        # The points are long and near each other: the expanded form would lose their difference.
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(points.double(), held, compute_mode=mode).mean(dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The points and where the next one goes."""
        return {"points": self.points.clone(), "pointer": self.pointer, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what `state_dict` held."""
        self.points.copy_(state["points"])
        self.pointer, self.count = int(state["pointer"]), int(state["count"])
