"""What the rules read of candidate rows, from the model as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.language.batch import batches
from tamis.trainer.data import Examples
from tamis.trainer.online.gradients import RowGradients
from tamis.trainer.pack import padded

# Padded tokens of a scoring batch. Fixed, so that a row is always computed in the same company.
_TOKENS = {"cpu": 1024, "cuda": 16_384}
# What is known without a forward pass; what takes a backward pass too.
FREE = frozenset({"tokens", "ids", "reference_loss"})
GRADIENTS = frozenset({"gradient", "gradient_norm"})


@dataclass
class Columns:
    """Runs rows of `examples` through `trained` and leaves it as it was.

    `lm` is the language model inside `trained`. Evaluation mode, no gradients kept, nothing drawn
    from a global generator; the forward is the trained model's own, so autocast and adapters are
    as in training. Bounded by 16,384 padded tokens of hidden states on a GPU, 1,024 on a CPU.
    """

    trained: Any
    lm: Any
    examples: Examples
    device: str
    seed: int
    bias: bool = False
    _gradients: RowGradients | None = field(default=None, init=False)

    def chunks(
        self, rows: np.ndarray, needs: frozenset[str], width: int | None = None
    ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Positions in `rows`, ordered by length, and the columns asked for of these rows.

        `loss` (b,) float64; `hidden` (b, t, h) float32 after the final norm, with `attention` and
        `labels` (b, t); `embedding` (b, h), the mean over attended positions; `gradient` (b, p)
        float32 and `gradient_norm` (b,). With `width`, all are padded to so many tokens.
        """
        with still(self.trained):
            for at in batches(self.examples.lengths[rows], _TOKENS[self.device]):
                yield at, self._columns(rows[at], needs, width)

    def gradients(self, rows: np.ndarray) -> Any:
        """The gradient of each row's mean loss, (n, p) float32."""
        with still(self.trained):
            return self._row_gradients(rows, frozenset({"gradient"}))["gradient"]

    def _columns(
        self, rows: np.ndarray, needs: frozenset[str], width: int | None
    ) -> dict[str, Any]:
        if needs & GRADIENTS:
            return self._row_gradients(rows, needs)
        ids, labels, mask = self._inputs(rows, width)
        states = bool(needs & {"hidden", "embedding"})
        with self._states(states) as seen:
            wanted = labels if "loss" in needs else labels.new_full(labels.shape, -100)
            terms = self.trained(input_ids=ids, labels=wanted)
        found: dict[str, Any] = {"attention": mask, "labels": labels}
        if "loss" in needs:
            found["loss"] = _row_means(terms, len(rows))
        if states:
            # A virtual token stands before the row's own.
            hidden = seen[0][:, -ids.shape[1] :].float()
            found["embedding"] = (hidden * mask[..., None]).sum(dim=1) / mask.sum(
                dim=1, keepdim=True
            )
            ones = hidden.new_ones(*hidden.shape[:2], int(self.bias))
            found["hidden"] = hidden if not self.bias else _joined(hidden, ones)
        return {name: found[name] for name in found.keys() & needs}

    def _inputs(self, rows: np.ndarray, width: int | None) -> tuple[Any, Any, Any]:
        from torch.nn.functional import pad

        batch = padded(self.examples, rows)
        ids, labels = (batch[name].to(self.device) for name in ("input_ids", "labels"))
        more = max(0, (width or 0) - ids.shape[1])
        ids, labels = pad(ids, (0, more)), pad(labels, (0, more), value=-100)
        lengths = ids.new_tensor(self.examples.lengths[rows])
        return ids, labels, ids.new_ones(ids.shape).cumsum(dim=1) <= lengths[:, None]

    @contextmanager
    def _states(self, wanted: bool) -> Iterator[list[Any]]:
        """The last hidden states of the backbone, as it gives them in a forward pass."""
        seen: list[Any] = []
        if not wanted:
            yield seen
            return
        backbone = getattr(self.lm, "base_model", self.lm)
        if backbone is self.lm:
            raise RecipeError(
                f"tune.online: {type(self.lm).__name__} hides its hidden states: choose a rule "
                "that reads the loss, such as max_loss"
            )
        hook = backbone.register_forward_hook(
            lambda module, given, out: seen.append(out.last_hidden_state)
        )
        try:
            yield seen
        finally:
            hook.remove()

    def _row_gradients(self, rows: np.ndarray, needs: frozenset[str]) -> dict[str, Any]:
        if self._gradients is None:
            self._gradients = RowGradients(self.trained, self.seed)
        one_by_one = (self._inputs(rows[i : i + 1], None)[:2] for i in range(len(rows)))
        return self._gradients.of(one_by_one, needs & GRADIENTS)


@contextmanager
def still(model: Any) -> Iterator[None]:
    """No gradients and no dropout for a block; modes are put back module by module."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _row_means(terms: Any, rows: int) -> Any:
    """The mean loss of each row, float64; NaN for a row without a trained token."""
    import torch

    nll, row = terms["nll"].double(), terms["row"]
    total = torch.zeros(rows, dtype=torch.float64, device=nll.device).index_add_(0, row, nll)
    return total / torch.bincount(row, minlength=rows)


def _joined(hidden: Any, ones: Any) -> Any:
    import torch

    return torch.cat([hidden, ones], dim=2)
