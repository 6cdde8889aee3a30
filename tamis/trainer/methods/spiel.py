"""SpIEL: few entries of each matrix, of which those that moved least give way to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.selectors.base import About
from tamis.trainer.methods.base import Context, Method, State
from tamis.trainer.methods.parts import linears, whole_weights
from tamis.trainer.methods.regrow import Candidates, exchange
from tamis.trainer.methods.sparse import Entries, attach
from tamis.trainer.methods.spiel_steps import aged_adam, entry_sm3


@dataclass
class Spiel(Method):
    """Of every linear layer the share `density` of its entries is trained, at first random ones;
    now and then those that moved least are put back to where they began, and others take their
    place (arXiv 2401.16405).

    After step `accumulation`, and `accumulation` steps after each multiple of `interval`, the
    fraction p of the entries is dropped, p = 1 the first time and `rate` (1 - step / steps) later:
    those whose change is smallest. Grown are, of the entries not trained,

    - `grow: gradients` (SpIEL-AG): those of the largest accumulated gradient. As many candidates as
      there are entries are noted where the gradient of the first step of a phase is largest, and
      followed to its end; a phase begins with the run, and a step before each multiple of
      `interval`. New entries take up their moments and age from it. Steps by an Adam with a count
      of steps for each entry.
    - `grow: sm3` (SpIEL-MA): those where the product of row and column of SM3's accumulators is
      largest. Steps by SM3, which needs a number for each row and column in place of moments.

    The rate is that of the authors' script, which takes a weight decay of 30, linear decay and 128
    rows a step. A step's gradient is that of all its batches; theirs is of one batch at a time, so
    that there the first batch of a phase alone names the candidates. To choose by the whole step,
    the gradient of all layers is held for that one step. `interval` is 20 as in their
    configuration class (100 in their arguments).
    """

    name = "spiel"
    about = About(
        sentence="Few entries of each matrix; those that move least are replaced.",
        needs="nothing",
        cost="moments of the entries alone; a dense gradient of one layer at a time, of all layers "
        "in the first step of each phase",
        avoid="FSDP or ZeRO; runs of few steps, which replace nothing",
    )
    source = "arXiv 2401.16405"
    kind = "full"
    learning_rate = 1e-5

    density: float = 0.01
    grow: Literal["gradients", "sm3"] = "gradients"
    interval: int = 20
    accumulation: int = 5
    rate: float = 0.2
    targets: str | tuple[str, ...] = "all-linear"

    def check(self) -> None:
        """See `Method`."""
        for name in ("density", "rate"):
            if not 0 < getattr(self, name) <= 1:
                raise RecipeError(f"spiel: {name}={getattr(self, name)}: expected above 0, to 1")
        if self.accumulation < 1 or self.interval < self.accumulation + 2:
            raise RecipeError(
                f"spiel: interval={self.interval}, accumulation={self.accumulation}: expected at "
                "least 1 step to accumulate, and an interval longer by 2"
            )
        whole_weights(self.name)

    def prepare(self, lm: Any, context: Context) -> Any:
        """See `Method`."""
        import torch

        rng = torch.Generator().manual_seed(context.seed % 2**63)

        def choose(weight: Any) -> Any:
            size = weight.numel()
            kind = torch.int32 if size < 2**31 else torch.int64
            drawn = torch.randperm(size, generator=rng, dtype=kind)
            return drawn[: max(1, int(self.density * size))].sort().values.to(weight.device)

        self.entries = attach(linears(lm, self.targets), choose, dense=True, delta=True)
        self.steps, self.replaced = context.steps, []
        self.phase: dict[str, Candidates] = {}
        return lm

    def optimizer(self, trained: Any, rate: float, decay: float) -> Any | None:
        """See `Method`."""
        every = list(self.entries.values())
        if self.grow == "sm3":
            return entry_sm3()(every, rate, weight_decay=decay)
        return aged_adam()([e.values for e in every], rate, weight_decay=decay)

    def step_begin(self, step: int, optimizer: Any) -> None:
        """See `Method`."""
        if step > 0 and step % self.interval == self.accumulation:
            first = step == self.accumulation
            share = 1.0 if first else self.rate * (1 - step / self.steps)
            count = sum(
                self._exchange(name, share, optimizer.state[e.values])
                for name, e in self.entries.items()
            )
            self.replaced.append([step, count])
            self._listen({})
        if self.grow == "gradients" and (step == 0 or (step + 1) % self.interval == 0):
            self._listen(
                {n: Candidates(e.layer.weight, len(e.index)) for n, e in self.entries.items()}
            )

    def step_end(self, step: int) -> None:
        """See `Method`."""
        for candidates in self.phase.values():
            candidates.close()
        for entries in self.entries.values():
            entries.write()

    def _listen(self, phase: dict[str, Candidates]) -> None:
        self.phase = phase
        for name, entries in self.entries.items():
            entries.heard = phase[name].hear if name in phase else None

    def _exchange(self, name: str, share: float, state: dict[str, Any]) -> int:
        entries = self.entries[name]
        count = int(share * len(entries.index))
        values = entries.values.detach()
        if self.grow == "sm3":
            candidates, scores = _by_product(entries, state)
            at, index, _ = exchange(entries.index, values, candidates, scores, count)
            entries.swap(at, index)
            return len(at)
        seen = self.phase[name]
        at, index, which = exchange(entries.index, values, seen.index, seen.total.abs(), count)
        entries.swap(at, index)
        state["age"][at] = seen.steps
        for moment, sums, beta in (
            ("exp_avg", seen.total, 0.9),
            ("exp_avg_sq", seen.squares, 0.999),
        ):
            # Adam divides by 1 - beta^age.
            state[moment][at] = sums[which] / seen.steps * (1 - beta**seen.steps)
        return len(at)

    def state_dict(self) -> State:
        """Which entries are trained, and what is known of candidates."""
        found = {f"{n}.index": e.index for n, e in self.entries.items()}
        for name, candidates in self.phase.items():
            found |= {f"{name}.next_{n}": t for n, t in candidates.state_dict().items()}
        steps = {candidates.steps for candidates in self.phase.values()}
        return found, {"replaced": self.replaced, "phase": max(steps, default=None)}

    def load_state_dict(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """See `Method`."""
        self.replaced = [*values["replaced"]]
        phase = {}
        for name, entries in self.entries.items():
            entries.take_up(tensors[f"{name}.index"].to(entries.index.device))
            if values["phase"] is None:
                continue
            phase[name] = Candidates(entries.layer.weight, len(entries.index))
            begin = f"{name}.next_"
            found = {n.removeprefix(begin): t for n, t in tensors.items() if n.startswith(begin)}
            on = {n: t.to(entries.index.device) for n, t in found.items()}
            phase[name].load_state_dict(on, values["phase"])
        self._listen(phase)

    def save(self, lm: Any, trained: Any, folder: Path) -> None:
        """See `Method`."""
        for entries in self.entries.values():
            entries.release()
        lm.save_pretrained(folder)

    def facts(self) -> dict[str, Any]:
        """How many entries are trained, and how many were replaced before which steps."""
        return {
            "entries": sum(len(e.index) for e in self.entries.values()),
            "replaced": [{"step": step, "entries": count} for step, count in self.replaced],
        }


def _by_product(entries: Entries, state: Mapping[str, Any]) -> tuple[Any, Any]:
    """The entries that are not trained, and the product of SM3's numbers of row and column."""
    import torch

    scores = torch.outer(state["row"], state["column"]).view(-1)
    free = torch.ones_like(scores, dtype=torch.bool)
    free[entries.index.long()] = False
    index = free.nonzero()[:, 0]
    return index, scores[index]
