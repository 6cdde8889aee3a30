"""How our trainer differs from that of transformers: steps of many batches, exact weights, logs."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from tamis.errors import TamisError
from tamis.trainer import launch
from tamis.trainer.loss import denominator, weighted_mean

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object


class StepLoss(Base):
    """Trains on items that are whole optimizer steps, each a list of micro-batches.

    The loss of every micro-batch is divided by the weighted number of trained tokens of the whole
    step over all ranks, so how a step is cut into micro-batches does not matter. An item with a
    `total` says itself what its weighted sum is to be divided by. A step is `weightless` whose rows
    all have weight 0: its loss and gradient are 0.
    """

    weightless = False

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        if not batch_samples:
            return None
        total = sum(_total(step) for step in batch_samples).to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        self.weightless = bool(total <= 0)
        return total

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a step, its gradients added up."""
        import torch

        *first, last = inputs["micro"]
        loss = torch.zeros((), device=self.args.device)
        for batch in first:
            # Gradients travel between ranks once a step, whatever the number of batches there.
            with self.accelerator.no_sync(model):
                loss += super().training_step(model, batch, num_items_in_batch)
        return loss + super().training_step(model, last, num_items_in_batch)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The part of a micro-batch in the loss of its step."""
        with self.noise.of(inputs):
            terms = model(**inputs)
        cost = self.objective.cost(terms)
        loss = weighted_mean(cost, terms["weights"], num_items_in_batch)
        self._count(terms)
        loss = loss * self.accelerator.num_processes  # ranks are averaged, and sums are wanted
        return (loss, terms) if return_outputs else loss


class StepLog(Base):
    """Tells the unweighted loss of every step, and stops where it is no number."""

    weightless: bool

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._sums: Counter[str] = Counter()
        self.diagnosed: dict[str, float | None] = {}  # of the step that is logged next

    def _count(self, terms: dict[str, Any]) -> None:
        """Remember what the trained tokens of a micro-batch cost, unweighted."""
        self._sums["tokens"] += len(terms["nll"])
        for name in ("nll", "kl"):
            if name in terms:
                self._sums[name] += float(terms[name].detach().sum())

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Add `nll`, `tokens`, `kl` where there is one, `weightless` where the step was, and what
        was diagnosed.

        Raises `TamisError` when the training diverged.
        """
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise TamisError(
                    f"the training diverged: the loss of step {self.state.global_step} is "
                    f"{logs['loss']}; lower tune.learning_rate"
                )
            # Weighted losses of different runs do not compare; this one does.
            sums = self._over_ranks()
            tokens = int(sums.pop("tokens", 0))
            means = {name: total / max(tokens, 1) for name, total in sums.items()}
            empty = {"weightless": True} if self.weightless else {}
            logs = {**logs, "tokens": tokens, **means, **empty, **self.diagnosed}
            self.diagnosed = {}
        super().log(logs, *args, **kwargs)

    def _over_ranks(self) -> dict[str, float]:
        """The sums of all ranks since the last call."""
        import torch

        names = sorted(self._sums)
        mine = torch.tensor([self._sums[n] for n in names], dtype=torch.float64)
        self._sums.clear()
        return dict(zip(names, launch.summed(mine.to(self.args.device)).tolist(), strict=True))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: nobody asks, and the parent expects inputs of another shape."""
        return 0


def _total(step: dict[str, Any]) -> Any:
    if "total" in step:
        return step["total"]
    return sum(denominator(batch) for batch in step["micro"])
