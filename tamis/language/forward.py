"""The engine: the only code that runs a causal language model over given text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import orjson

from tamis.errors import DataError
from tamis.language import tally
from tamis.language.batch import batches
from tamis.language.load import (
    hidden_size,
    identity,
    load_model,
    load_tokenizer,
    max_length,
    vocabulary,
)
from tamis.language.network import STATES, Network, Padded, Part, network
from tamis.language.packed import pack
from tamis.language.parallel import spread
from tamis.language.prefix import shared
from tamis.language.room import Room
from tamis.numerics.device import resolve
from tamis.recipe import Model

# Padded tokens of a batch. On a CPU more than this only leaves the caches; a GPU wants to be full.
_BUDGET = {"cpu": 512, "cuda": 32_768}
# Logits a model that must make them whole may hold at once, in values (1 GB of float32).
_WHOLE_VALUES = 2**28

Done = Callable[[np.ndarray], None]
# The networks in use, by the content of the model.
_LOADED: WeakValueDictionary[bytes, Network] = WeakValueDictionary()
LOGPROB: frozenset[Part] = frozenset({"logprob"})


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
    def hidden_size(self) -> int:
        """Numbers in a hidden state, d."""
        return hidden_size(self.model)

    @cached_property
    def network(self) -> Network:
        """The loaded model, in memory once for all engines of the same model and device."""
        device = resolve(self.device)
        key = orjson.dumps([identity(self.model), device])
        found = _LOADED.get(key)
        if found is None:
            lm = pack(load_model(self.model, device))
            found = _LOADED[key] = network(lm, self.vocabulary)
        return found

    @cached_property
    def room(self) -> Room:
        """How many padded tokens a batch may have."""
        budget = self._wanted_budget or _BUDGET[resolve(self.device)]
        if self.network.whole_logits:
            budget = min(budget, max(1, _WHOLE_VALUES // self.vocabulary))
        return Room(budget)

    def logprobs(self, passes: Sequence[Pass], *, done: Done | None = None) -> list[np.ndarray]:
        """The natural log-probabilities of the targets of each pass alone: see `run`."""
        return [values["logprob"] for values in self.run(passes, LOGPROB, done=done)]

    def run(
        self, passes: Sequence[Pass], parts: frozenset[Part], *, done: Done | None = None
    ) -> list[Mapping[Part, np.ndarray]]:
        """The log-probabilities and the other `parts` of each pass, by one forward of it.

        Returns, in the order of `passes`, float64 (m,) for each part a target has, given all tokens
        before it, and float32 (d,) for the states of the sequence; log-softmax is in float32.
        Passes run sorted by length, in batches bounded by padded tokens; what one gets differs by
        rounding (1e-6 in float32) with the others in its batch and with the parts asked for, and
        is the same when the call is repeated and, on a CPU, with any number of threads: see
        `parallel.spread`. A pass without targets is not run unless a state is asked for.

        `done` is told the numbers of the passes that are finished. When CUDA memory runs out the
        batch is halved, down to one sequence; then `TamisError`. Cost: one forward of every token
        that comes before a target (of all, when a state is asked for), and V times the targets
        through the head, a chunk of them at a time. What four passes or more begin with, such as a
        system prompt, is read once a batch, unless a state is asked for: see `prefix`.
        """
        states = parts & STATES
        widths = np.array([len(p.ids) if states else p.width for p in passes], dtype=np.int64)

        group = length = np.zeros(len(passes), dtype=np.int64)
        if len(passes) and not states and self.network.reads_on:
            group, length = shared(passes)

        def forward(rows: np.ndarray) -> list[Mapping[Part, np.ndarray]]:
            some = [passes[i] for i in rows]
            batch = pad(some, widths[rows], resolve(self.device), shared=int(length[rows[0]]))
            return self._forward(some, batch, parts)

        # What is read from a cache takes memory too, about an eighth.
        costs = widths - length + length // 8
        found = self.each(costs, forward, group=group, done=done, tokens=widths)
        nothing = {part: np.zeros(0) for part in parts | LOGPROB}
        return [nothing if values is None else values for values in found]

    def each(
        self,
        widths: np.ndarray,
        compute: Callable[[np.ndarray], Sequence[Any]],
        *,
        group: np.ndarray | None = None,
        done: Done | None = None,
        tokens: np.ndarray | None = None,
    ) -> list[Any]:
        """Run `compute` on batches of row numbers; its results in the order of the rows.

        `widths` (n,) tells how many tokens each row reads; rows of none give None. `compute` gets
        rows of like width, of one `group` (n,), and returns one result a row. Batches, threads and
        memory as in `run`. `tokens` (n,) is what rows are counted with where that is not their
        width.
        """
        read = widths if tokens is None else tokens
        results: list[Any] = [None] * len(widths)
        wanted = np.flatnonzero(widths)
        if not len(wanted):
            return results
        groups = (
            [wanted]
            if group is None
            else [wanted[group[wanted] == number] for number in np.unique(group[wanted])]
        )
        cut = [rows[b] for rows in groups for b in batches(widths[rows], self.room.tokens)]
        with spread(resolve(self.device)) as run:
            found = run(lambda rows: self.room.run(rows, widths, compute), cut)
            for rows, values in zip(cut, found, strict=True):
                for row, value in zip(rows, values, strict=True):
                    results[row] = value
                self.passes_run += len(rows)
                tally.note(len(rows), int(read[rows].sum()))
                if done is not None:
                    done(rows)
        return results

    def _forward(
        self, passes: list[Pass], batch: Padded, parts: frozenset[Part]
    ) -> list[Mapping[Part, np.ndarray]]:
        import torch

        with torch.inference_mode():
            found = self.network.run(batch, parts)
            arrays = {part: values.cpu().numpy() for part, values in found.items()}
        ends = np.cumsum([len(p.targets) for p in passes])[:-1]
        rows = {
            part: values if part in STATES else np.split(values.astype(np.float64), ends)
            for part, values in arrays.items()
        }
        return [{part: rows[part][i] for part in rows} for i in range(len(passes))]


def pad(passes: Sequence[Pass], widths: np.ndarray, device: str, *, shared: int = 0) -> Padded:
    """The first `widths` (b,) tokens of each pass as one batch on the device; all of them begin
    with the same `shared` tokens."""
    import torch

    ids = np.zeros((len(passes), widths.max()), dtype=np.int64)
    for i, (p, width) in enumerate(zip(passes, widths, strict=True)):
        ids[i, :width] = p.ids[:width]
    mask = (np.arange(ids.shape[1]) < widths[:, None]).astype(np.int64)
    row = np.repeat(np.arange(len(passes)), [len(p.targets) for p in passes])
    targets = np.concatenate([p.targets for p in passes]).astype(np.int64)
    token = np.concatenate([np.asarray(p.ids, dtype=np.int64)[p.targets] for p in passes])
    tensors = (ids, mask, row, targets - 1, token)
    return Padded(*(torch.from_numpy(t).to(device) for t in tensors), shared=shared)
