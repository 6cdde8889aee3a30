"""Complexity and quality from a model that was trained to answer with a digit (EVOL of DEITA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import orjson
import pyarrow as pa

from tamis import samples
from tamis.errors import RecipeError
from tamis.language import load
from tamis.language.choices import after
from tamis.language.forward import Engine
from tamis.recipe import Model
from tamis.scoring import digit_prompt
from tamis.scoring.base import Advance, Columns
from tamis.scoring.digit_prompt import DigitPrompt
from tamis.scoring.digits import expectation

Axis = Literal["complexity", "quality"]
AXES: tuple[Axis, ...] = ("complexity", "quality")
COMPLEXITY = (
    "Say from 1 to 6 how complex the query is that a user sent to an assistant.\n"
    "##Query: {instruction}\n##Complexity: "
)
QUALITY = (
    "Say from 1 to 6 how well an assistant responded to the question of a user.\n"
    "##Question: {instruction}\n##Response: {response}\n##Quality: "
)
# Beside the weights: the templates by axis that a scorer was trained with.
CARD = "evol.json"
NO_INSTRUCTION = "no_instruction"
NO_ROOM = "template_does_not_fit"
NO_DIGIT = "no_digit"
# Below this probability of all six digits together, the model was about to say something else.
LEAST_MASS = 0.01


@dataclass(frozen=True)
class Evol:
    """The expected digit after the template, for each turn by itself: 1 to 6.

    `axes` says what the model can judge; `complexity` and `quality` are its templates with
    {instruction} and {response}, and must be the ones it was trained with, byte for byte. No system
    prompt, no chat template, no earlier turns. Texts that do not fit are cut in the middle and the
    row is flagged. `total` is the sum over turns of the product over axes, `mean` that by the
    number of turns.

    Source: Liu et al., "What Makes Good Data for Alignment?", 2024 (arXiv 2312.15685). Differs from
    the authors' code: one forward pass in place of generation; no value where they give 3.0; system
    prompts do not shift the turns. Cost: one forward pass a turn and axis.
    """

    model: Model
    device: str
    axes: tuple[Axis, ...] = AXES
    complexity: str = COMPLEXITY
    quality: str = QUALITY

    name: ClassVar[str] = "evol"
    version: ClassVar[int] = 1
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How complex each instruction and how good each response is, from 1 to 6.",
        "needs": "a causal language model trained to say that digit: see tamis train-scorer",
        "cost": "one forward pass a turn and axis, about twice nll",
        "avoid": "with a model that was not trained for it: it answers around 3.5 to anything",
    }
    fields = ("complexity", "quality", "total", "mean", "mass", "truncated", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model and the templates in use."""
        templates = {axis: getattr(self, axis) for axis in sorted(set(self.axes))}
        return {"model": load.identity(self.model), "templates": templates}

    def check(self) -> None:
        """Raise if the model is not there, or was trained with other templates."""
        if not self.axes:
            raise RecipeError("evol.axes must name complexity, quality or both")
        for axis in self.axes:
            digit_prompt.check(getattr(self, axis), f"evol.{axis}")
        load.check(self.model)
        known = _card(self.model)
        for axis in self.axes if known is not None else ():
            if known.get(axis) != getattr(self, axis):
                can = ", ".join(known)
                raise RecipeError(
                    f"evol: the model was trained for {can}; its template of {axis} is "
                    f"{known.get(axis)!r}, the one given is {getattr(self, axis)!r}"
                )

    @property
    def warnings(self) -> list[str]:
        """That the model does not answer with digits."""
        masses = np.array(self._masses)
        if not len(masses) or np.median(masses) >= LEAST_MASS:
            return []
        return [
            f"evol: {self.model.location} gives the digits 1 to 6 a probability of "
            f"{np.median(masses):.1e} together, so THESE SCORES ARE NOISE: train it with tamis "
            "train-scorer, or check the template"
        ]

    def score(self, batch: pa.RecordBatch, *, advance: Advance) -> Columns:
        """`complexity` and `quality`, a list of one float a turn, NaN where there is none; `total`
        and `mean`, NaN with a `reason` when a turn has none; `mass`, the least probability of all
        digits together in a turn; `truncated`, a text was cut."""
        rows = [pairs(m) for m in samples.decode_messages(batch.column("messages"))]
        n = len(rows)
        truncated, reason = np.zeros(n, dtype=bool), np.full(n, None, dtype=object)
        values = {axis: [[np.nan] * max(1, len(turns)) for turns in rows] for axis in AXES}
        mass = np.full(n, np.inf)
        places, prompts, tokens = self._prompts(rows, truncated, reason)
        digits = np.array(tokens, dtype=np.int64).reshape(-1, 6)
        left = np.bincount([i for i, _, _ in places], minlength=n)
        advance(int((left == 0).sum()))

        def done(finished: np.ndarray) -> None:
            before = left > 0
            np.subtract.at(left, [places[k][0] for k in finished], 1)
            advance(int((before & (left == 0)).sum()))

        logprobs = after(self._engine, prompts, digits, done=done)
        found, masses = expectation(logprobs), np.exp(logprobs).sum(axis=1)
        self._masses.extend(masses.tolist())
        for (i, turn, axis), value, m in zip(places, found.tolist(), masses.tolist(), strict=True):
            values[axis][i][turn] = value
            mass[i] = min(mass[i], m)
            if np.isnan(value):
                reason[i] = NO_DIGIT
        mass[np.isinf(mass)] = np.nan
        used = [values[axis] for axis in AXES if axis in self.axes]
        total = np.array([float(np.prod(lists, axis=0).sum()) for lists in zip(*used, strict=True)])
        turns = np.array([max(1, len(t)) for t in rows])
        return {
            **{axis: _objects(values[axis]) for axis in AXES},
            "total": total,
            "mean": total / turns,
            "mass": mass,
            "truncated": truncated,
            "reason": reason,
        }

    def _prompts(
        self, rows: Sequence[list[tuple[str, str]]], truncated: np.ndarray, reason: np.ndarray
    ) -> tuple[list[tuple[int, int, Axis]], list[list[int]], list[list[int]]]:
        """Row, turn and axis of each prompt, its ids and those of the digits."""
        places: list[tuple[int, int, Axis]] = []
        prompts, tokens = [], []
        for i, turns in enumerate(rows):
            if not turns:
                reason[i] = NO_INSTRUCTION
            for turn, (instruction, response) in enumerate(turns):
                for axis, prompt in self._templates.items():
                    ids, cut = prompt.ids(instruction, response)
                    truncated[i] |= cut
                    if ids is None:
                        reason[i] = NO_ROOM
                        continue
                    places.append((i, turn, axis))
                    prompts.append(ids)
                    tokens.append(prompt.digits)
        return places, prompts, tokens

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.device)

    @cached_property
    def _masses(self) -> list[float]:
        return []

    @cached_property
    def _templates(self) -> dict[Axis, DigitPrompt]:
        tokenizer, limit = self._engine.tokenizer, self._engine.max_length
        return {a: DigitPrompt(tokenizer, getattr(self, a), limit) for a in AXES if a in self.axes}


def pairs(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Instruction and response of each turn: a user's texts, and the answers up to the next.

    System prompts and results of tools are left out; "" where nobody answers in words.
    """
    turns: list[tuple[list[str], list[str]]] = []
    for message in messages:
        content = (message.get("content") or "").strip()
        if message["role"] == "user":
            if not turns or turns[-1][1]:
                turns.append(([], []))
            turns[-1][0].append(content)
        elif message["role"] == "assistant" and turns:
            # Even an answer without words ends what the user said.
            turns[-1][1].append(content)
    return [("\n".join(asked), "\n".join(filter(None, said))) for asked, said in turns]


def _objects(lists: list[list[float]]) -> np.ndarray:
    column = np.empty(len(lists), dtype=object)
    column[:] = lists
    return column


def _card(model: Model) -> dict[str, str] | None:
    """The templates that lie beside the weights of a scorer that was trained here."""
    for folder in (model.adapter, model.path):
        if folder is not None and (Path(folder) / CARD).is_file():
            templates: dict[str, str] = orjson.loads((Path(folder) / CARD).read_bytes())
            return templates
    return None
