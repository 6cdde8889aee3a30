"""LIFT: the entries that are largest in a low-rank approximation of each matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method, State
from tamis.trainer.methods.entry_adam import entry_adam
from tamis.trainer.methods.parts import linears, whole_weights
from tamis.trainer.methods.sparse import Entries, attach, save_shira


@dataclass
class Lift(Method):
    """Of every linear layer of m x n, the k = min(rank (m + n), m n) entries that are largest in
    size in its approximation of rank `filter_rank` are trained, with an Adam that keeps moments of
    these alone (arXiv 2506.00772).

    Every `interval` steps the entries are chosen anew from the weights as they are: moments of
    those that stay are carried, new ones begin at zero, those that leave keep what they learnt. The
    choice is due before step interval - 1, 2 interval - 1 and so on (steps from 0), as in the
    authors' code. `interval: null` chooses once and saves a SHiRA adapter, of as many entries as a
    LoRA of that rank has numbers.

    The recipes that were released train the entries that are *smallest* in the approximation
    (`select: smallest`), against the paper; `largest`, the default, is what the paper says.

    `svd: lowrank` takes a randomised decomposition with 2 x filter_rank directions and two
    iterations, for large matrices.
    """

    name = "lift"
    about = About(
        sentence="The entries that matter most to a low-rank picture of each matrix.",
        needs="nothing",
        cost="moments of the entries alone; a dense gradient of one layer at a time; an SVD of "
        "every matrix at each choice",
        avoid="FSDP or ZeRO; wide models without svd: lowrank",
    )
    source = "arXiv 2506.00772"
    kind = "full"  # an adapter where the entries never change
    learning_rate = 2e-4

    rank: int = 128
    filter_rank: int = 64
    interval: int | None = 400
    select: Literal["largest", "smallest"] = "largest"
    svd: Literal["exact", "lowrank"] = "exact"
    targets: str | tuple[str, ...] = "all-linear"

    def check(self) -> None:
        """See `Method`."""
        if self.rank < 1 or self.filter_rank < 1:
            raise RecipeError("lift: rank and filter_rank must be at least 1")
        if self.interval is not None and self.interval < 1:
            raise RecipeError(f"lift: interval={self.interval}: expected at least 1, or null")
        whole_weights(self.name)
        self.kind = "full" if self.interval else "adapter"

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        found = linears(lm, self.targets)
        self.seed, self.steps = context.seed, context.steps
        if self.interval is None:
            self._check_fit(found)
        choose = self.chosen
        self.entries = attach(found, lambda w: choose(w, step=0), dense=True, delta=False)
        self.began = {n: e.values.detach().clone() for n, e in self.entries.items()}
        return lm

    def chosen(self, weight: Any, step: int) -> Any:
        """The flat indices of the entries of a weight (m, n) to train, ascending."""
        import torch

        picture = self._picture(weight.float(), step).abs().view(-1)
        count = min(self.rank * sum(weight.shape), weight.numel())
        largest = self.select == "largest"
        return torch.topk(picture, count, largest=largest, sorted=False).indices.sort().values

    def _picture(self, weight: Any, step: int) -> Any:
        import torch

        if self.svd == "exact":
            left, size, right = torch.linalg.svd(weight, full_matrices=False)
            right = right.T
        else:
            # torch takes no generator here: what it draws is ours for the moment.
            with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
                torch.manual_seed((self.seed + step) % 2**63)
                width = min(2 * self.filter_rank, *weight.shape)
                left, size, right = torch.svd_lowrank(weight, q=width, niter=2)
        f = self.filter_rank
        return (left[:, :f] * size[:f]) @ right[:, :f].T

    def _check_fit(self, found: Mapping[str, Any]) -> None:
        for name, layer in found.items():
            m, n = layer.weight.shape
            if self.rank * (m + n) > m * n:
                raise RecipeError(
                    f"lift: rank={self.rank} is all of {name} ({m} x {n}), which no adapter holds: "
                    f"with interval: null expected at most {m * n // (m + n)}"
                )

    def optimizer(self, trained: Any, rate: float, decay: float) -> Any | None:
        """See `Method`."""
        return entry_adam()([e.values for e in self.entries.values()], rate, weight_decay=decay)

    def step_begin(self, step: int, optimizer: Any) -> None:
        """See `Method`."""
        if self.interval and (step + 1) % self.interval == 0:
            for entries in self.entries.values():
                _carry(entries, self.chosen(entries.layer.weight, step), optimizer.state)

    def step_end(self, step: int) -> None:
        """See `Method`."""
        for entries in self.entries.values():
            entries.write()

    def state_dict(self) -> State:
        """Which entries are trained, and where they change, the whole weights."""
        found = {f"{name}.index": e.index for name, e in self.entries.items()}
        if self.interval:
            found |= {f"{name}.weight": e.layer.weight for name, e in self.entries.items()}
        return found, {}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        for name, entries in self.entries.items():
            entries.index = tensors[f"{name}.index"].to(entries.index)
            if self.interval:
                entries.layer.weight.copy_(tensors[f"{name}.weight"])
            entries.write()

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        changes = {n: (e.index, e.values - self.began[n]) for n, e in self.entries.items()}
        shapes = {n: tuple(e.layer.weight.shape) for n, e in self.entries.items()}
        for entries in self.entries.values():
            entries.release()
        if self.interval is None:
            save_shira(changes, shapes, self.rank, lm.name_or_path, folder)
        else:
            lm.save_pretrained(folder)

    def facts(self) -> dict[str, Any]:
        """How often the entries were chosen, and how many of each layer."""
        times = 1 + (self.steps // self.interval if self.interval else 0)
        return {
            "chosen_times": times,
            "entries": {n: len(e.index) for n, e in self.entries.items()},
        }


def _carry(entries: Entries, index: Any, state: Any) -> None:
    """Train other entries of a layer; moments of those that stay are kept, others begin at 0."""
    kept = state.get(entries.values, {})
    dense = entries.layer.weight.new_zeros(entries.layer.weight.numel())
    before = entries.index.long()
    for name in ("exp_avg", "exp_avg_sq"):
        if name in kept:
            dense[before] = kept[name]
            kept[name] = dense[index]
            dense.zero_()
    entries.choose(index)
