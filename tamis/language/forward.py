"""The engine: the only code that runs a causal language model over given text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tamis.errors import DataError, TamisError
from tamis.language.batch import batches
from tamis.language.load import load_model, load_tokenizer, max_length, vocabulary
from tamis.language.network import Network, Padded, network
from tamis.language.parallel import spread
from tamis.numerics.device import resolve
from tamis.recipe import Model

# Padded tokens of a batch. On a CPU more than this only leaves the caches; a GPU wants to be full.
_BUDGET = {"cpu": 1024, "cuda": 32_768}
# Logits a model that must make them whole may hold at once, in values (1 GB of float32).
_WHOLE_VALUES = 2**28

Done = Callable[[np.ndarray], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One sequence for the model: its token `ids`, and the positions whose tokens it is to predict.

    `targets` is int64 (m,), ascending, each in 1..len(ids)-1: nothing predicts the first token.
    """

    ids: Sequence[int]
    targets: np.ndarray

    def __post_init__(self) -> None:
        t = self.targets
        if len(t) and (t[0] < 1 or t[-1] >= len(self.ids) or (np.diff(t) <= 0).any()):
            raise DataError(
                f"targets must ascend within 1..{len(self.ids) - 1}, given {t[0]}..{t[-1]}"
            )

    @property
    def width(self) -> int:
        """How many tokens the model has to read: all before the last that is predicted."""
        return int(self.targets[-1]) if len(self.targets) else 0


class Engine:
    """Runs one model; loads it when it is first used.

    `passes_run` counts the sequences that went through the model.
    """

    def __init__(self, model: Model, device: str = "auto", *, budget: int | None = None) -> None:
        """`budget` bounds the padded tokens of a batch; the default follows the device."""
        self.model = model
        self.device = device
        self.passes_run = 0
        self._wanted_budget = budget

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.model)

    @cached_property
    def max_length(self) -> int:
        """The cut-off in tokens."""
        return max_length(self.model)

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens the model tells apart, V."""
        return vocabulary(self.model)

    @cached_property
    def network(self) -> Network:
        """The loaded model."""
        return network(load_model(self.model, resolve(self.device)), self.vocabulary)

    @cached_property
    def budget(self) -> int:
        """Padded tokens a batch may have. Shrinks when memory runs out."""
        budget = self._wanted_budget or _BUDGET[resolve(self.device)]
        if self.network.whole_logits:
            budget = min(budget, max(1, _WHOLE_VALUES // self.vocabulary))
        return budget

    def logprobs(self, passes: Sequence[Pass], *, done: Done | None = None) -> list[np.ndarray]:
        """Natural log-probabilities of the targets of each pass, given all tokens before them.

        Returns float64 arrays (m,) in the order of `passes`; log-softmax is in float32. Passes run
        sorted by length, in batches bounded by padded tokens; what one gets differs by rounding
        (1e-6 in float32) with the others in its batch, and is the same when the call is repeated
        and, on a CPU, with any number of threads: see `parallel.spread`.

        `done` is told the numbers of the passes that are finished. When CUDA memory runs out the
        batch is halved, down to one sequence; then `TamisError`. Cost: one forward of every token
        that comes before a target, and V times the targets through the head.
        """
        results = [np.zeros(0)] * len(passes)
        wanted = np.array([i for i, p in enumerate(passes) if len(p.targets)], dtype=np.int64)
        lengths = np.array([passes[i].width for i in wanted], dtype=np.int64)
        cut = [wanted[batch] for batch in batches(lengths, self.budget)] if len(wanted) else []
        with spread(resolve(self.device)) as run:
            found = run(self._halving, ([passes[i] for i in rows] for rows in cut))
            for rows, values in zip(cut, found, strict=True):
                for row, value in zip(rows, values, strict=True):
                    results[row] = value
                self.passes_run += len(rows)
                if done is not None:
                    done(rows)
        return results

    def _halving(self, passes: list[Pass]) -> list[np.ndarray]:
        """The log-probabilities of a batch, in two batches if it does not fit into memory."""
        import torch

        padded = len(passes) * max(p.width for p in passes)
        if padded <= self.budget or len(passes) == 1:
            try:
                return self._forward(passes)
            except torch.cuda.OutOfMemoryError as error:
                if len(passes) == 1:
                    raise TamisError(
                        f"a sequence of {padded} tokens does not fit into GPU memory: lower the "
                        "model's max_length, or use dtype bfloat16"
                    ) from error
                self.budget = max(1, padded // 2)
            # Outside the except block, which keeps the failed tensors alive.
            torch.cuda.empty_cache()
        middle = len(passes) // 2
        return self._halving(passes[:middle]) + self._halving(passes[middle:])

    def _forward(self, passes: list[Pass]) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            flat = self.network.logprobs(_pad(passes, resolve(self.device)))
            values = flat.cpu().numpy().astype(np.float64)
        return np.split(values, np.cumsum([len(p.targets) for p in passes])[:-1])


def _pad(passes: Sequence[Pass], device: str) -> Padded:
    import torch

    widths = np.array([p.width for p in passes])
    ids = np.zeros((len(passes), widths.max()), dtype=np.int64)
    for i, p in enumerate(passes):
        ids[i, : p.width] = p.ids[: p.width]
    mask = (np.arange(ids.shape[1]) < widths[:, None]).astype(np.int64)
    row = np.repeat(np.arange(len(passes)), [len(p.targets) for p in passes])
    targets = np.concatenate([p.targets for p in passes]).astype(np.int64)
    token = np.concatenate([np.asarray(p.ids, dtype=np.int64)[p.targets] for p in passes])
    tensors = (ids, mask, row, targets - 1, token)
    return Padded(*(torch.from_numpy(t).to(device) for t in tensors))
