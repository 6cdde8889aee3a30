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
from tamis.language import asking, endpoint, load
from tamis.language.choices import after
from tamis.language.endpoint import Client
from tamis.language.forward import Done, Engine
from tamis.language.replies import Reply
from tamis.recipe import Model
from tamis.scoring import digit_prompt
from tamis.scoring.answers import counting
from tamis.scoring.base import Advance, Columns
from tamis.scoring.digit_prompt import DigitPrompt
from tamis.scoring.digits import DIGITS, expectation

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
    prompt, no chat template, no earlier turns. Texts that do not fit are cut in the middle, and
    `cut` tells how much. `total` is the sum over turns of the product over axes, `mean` that by the
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
    version: ClassVar[int] = 2
    about: ClassVar[Mapping[str, str]] = {
        "sentence": "How complex each instruction and how good each response is, from 1 to 6.",
        "needs": "a causal language model trained to say that digit: see tamis train-scorer",
        "view": "user and answer, turn by turn",
        "cost": "one forward pass a turn and axis, about twice nll",
        "avoid": "with a model that was not trained for it: it answers around 3.5 to anything",
    }
    fields = ("complexity", "quality", "total", "mean", "mass", "cut", "reason")

    def identity(self) -> Mapping[str, Any]:
        """The model and the templates in use."""
        templates = {axis: getattr(self, axis) for axis in sorted(set(self.axes))}
        return {"model": asking.identity(self.model), "templates": templates}

    def check(self) -> None:
        """Raise if the model is not there, or was trained with other templates."""
        if not self.axes:
            raise RecipeError("evol.axes must name complexity, quality or both")
        for axis in self.axes:
            digit_prompt.check(getattr(self, axis), f"evol.{axis}")
        if self.model.endpoint is not None:
            endpoint.check(self.model, self.name)
            if self.model.prompt_style != "plain":
                raise RecipeError(
                    "evol: its template stands alone: set prompt_style of the endpoint to plain"
                )
            return
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
        digits together in a turn; `cut`, the largest share of a turn's texts that did not fit."""
        rows = [pairs(m) for m in samples.decode_messages(batch.column("messages"))]
        n = len(rows)
        cut, reason = np.zeros(n), np.full(n, None, dtype=object)
        reason[[not turns for turns in rows]] = NO_INSTRUCTION
        work = [a for i, turns in enumerate(rows) for a in self._asked(i, turns)]
        if self.model.endpoint is not None:
            logprobs = self._served(work, reason)
            advance(n)
        else:
            owner = np.array([asked.row for asked in work], dtype=np.int64)
            logprobs = self._local(work, cut, reason, counting(owner, n, advance))
        values = {axis: [[np.nan] * max(1, len(turns)) for turns in rows] for axis in AXES}
        mass = np.full(n, np.inf)
        found, masses = expectation(logprobs), np.exp(logprobs).sum(axis=1)
        self._masses.extend(masses[~np.isnan(masses)].tolist())
        for asked, value, m in zip(work, found.tolist(), masses.tolist(), strict=True):
            i = asked.row
            values[asked.axis][i][asked.turn] = value
            mass[i] = min(mass[i], m)
            if np.isnan(value) and reason[i] is None:
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
            "cut": cut,
            "reason": reason,
        }

    def _asked(self, row: int, turns: Sequence[tuple[str, str]]) -> list[_Asked]:
        axes = [axis for axis in AXES if axis in self.axes]
        return [_Asked(row, t, axis, *texts) for t, texts in enumerate(turns) for axis in axes]

    def _local(
        self, work: Sequence[_Asked], cut: np.ndarray, reason: np.ndarray, done: Done
    ) -> np.ndarray:
        """Log-probabilities (m, 6) of the digits by the weights here; NaN where nothing fits."""
        prompts, tokens, fits = [], [], []
        for k, asked in enumerate(work):
            prompt = self._templates[asked.axis]
            ids, share = prompt.ids(asked.instruction, asked.response)
            cut[asked.row] = max(cut[asked.row], share)
            if ids is None:
                reason[asked.row] = NO_ROOM
                continue
            prompts.append(ids)
            tokens.append(prompt.digits)
            fits.append(k)
        place = np.array(fits, dtype=np.int64)
        done(np.setdiff1d(np.arange(len(work)), place))
        digits = np.array(tokens, dtype=np.int64).reshape(-1, DIGITS)
        logprobs = np.full((len(work), DIGITS), np.nan)
        logprobs[place] = after(self._engine, prompts, digits, done=lambda f: done(place[f]))
        return logprobs

    def _served(self, work: Sequence[_Asked], reason: np.ndarray) -> np.ndarray:
        """The same by a server, NaN where it does not tell every digit."""
        texts = [
            digit_prompt.filled(
                getattr(self, asked.axis),
                {"instruction": asked.instruction, "response": asked.response},
            )
            for asked in work
        ]
        numbers = [str(d + 1) for d in range(DIGITS)]
        logprobs = np.full((len(work), DIGITS), np.nan)
        for k, reply in enumerate(self._client.ask(texts, max_tokens=1, among=numbers)):
            if not isinstance(reply, Reply):
                reason[work[k].row] = reply.reason
            elif reply.tokens:
                told = reply.tokens[0][1]
                for d, number in enumerate(numbers):
                    # Some tokenizers join the space before a digit to it.
                    same = [p for token, p in told.items() if token.strip() == number]
                    if same:
                        logprobs[k, d] = np.logaddexp.reduce(same)
        return logprobs

    @cached_property
    def _client(self) -> Client:
        return Client(self.model)

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


@dataclass(frozen=True, slots=True)
class _Asked:
    """One turn to be judged along one axis."""

    row: int
    turn: int
    axis: Axis
    instruction: str
    response: str


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
