"""The model as it was before training, to compare with while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tamis.trainer.loss import Rows, divergence_terms, rows_of

# How far the model without its adapter may lie from where it began, relative to its largest value.
_PROBE_TOLERANCE = 1e-5


class StartModel:
    """The start model: the trained one with its adapter off where that is the same, else a copy.

    Make it before the model is set up for training, and `settle` it after. Some adapters take a
    part of the weights into themselves when they are made (PiSSA and its kin); without them, and
    where all weights are trained, `load` gives a second model, which costs its memory.
    """

    gives = ("kl",)

    def __init__(self, model: Any, vocabulary: int, load: Callable[[], Any]):
        self._model, self._vocabulary, self._load = model, vocabulary, load
        self._rows: Rows = rows_of(model, vocabulary)
        self._trained: Any = None
        self._began = self._probe()

    def settle(self, trained: Any) -> None:
        """Decide which model is asked, now that `trained` is what is trained."""
        if hasattr(trained, "disable_adapter"):
            self._trained = trained
            gap = (self._probe() - self._began).abs().max()
            if gap <= _PROBE_TOLERANCE * self._began.abs().max():
                return
        self._model, self._trained = self._load(), None
        self._model.requires_grad_(False)
        self._rows = rows_of(self._model, self._vocabulary)

    def states(self, inputs: Mapping[str, Any], row: Any, before: Any) -> Any:
        """See `loss.Frozen`."""
        with self._asked():
            return self._rows.states(inputs, row, before)

    def head(self, rows: Any) -> Any:
        """Logits of states, without gradient."""
        with self._asked():
            return self._rows.head(rows)

    def terms(self, logits: Any, rows: Any, tokens: Any) -> tuple[Any, ...]:
        """See `loss.Frozen`: KL(start model || logits)."""
        return divergence_terms(logits, self.head(rows), tokens)

    def _probe(self) -> Any:
        import torch

        device = next(self._model.parameters()).device
        ids = torch.linspace(0, self._vocabulary - 1, 8, device=device).long()[None]
        at = torch.arange(8, device=device)
        inputs = {"input_ids": ids, "use_cache": False}
        return self.head(self.states(inputs, torch.zeros_like(at), at)).float()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """No gradient, no dropout, no adapter; everything as before afterwards."""
        import torch

        modes = [(module, module.training) for module in self._model.modules()]
        with torch.no_grad():
            self._model.eval()
            try:
                with _without_adapter(self._trained):
                    yield
            finally:
                for module, mode in modes:
                    module.training = mode


@contextmanager
def _without_adapter(trained: Any) -> Iterator[None]:
    if trained is None:
        yield
        return
    # Switching an adapter on again makes all of it trainable, whatever was frozen by a method.
    wanted = [(parameter, parameter.requires_grad) for parameter in trained.parameters()]
    try:
        with trained.disable_adapter():
            yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
