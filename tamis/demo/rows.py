"""Conversations made of cases: one question, several turns, a system prompt, or a tool call."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tamis.demo import words as w
from tamis.demo.case import Case
from tamis.demo.skills import SKILLS, draw_from, split_of

Message = dict[str, Any]
SKEWED = "comparison"  # the skill that the pool has far too much of
SKEW_SHARE = 0.3
# What a small model needs more examples of, relative to the other skills.
LEARNING = {"comparison": 4, "extraction": 3, "arithmetic": 3, "sorting": 2}
SURE = "Begin every answer with the word Sure."
TEACHER = "You are a patient teacher."


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation. `wrong` is a false text for its last answer; `context` is the part of the
    question that the alpaca shape keeps in a field of its own. `planted` names the defect and
    `twin` ties copies to their original; no method reads either."""

    messages: tuple[Message, ...]
    skill: str
    wrong: str
    context: str = ""
    tools: tuple[Message, ...] = ()
    planted: str = "none"
    twin: str = ""

    @property
    def answer(self) -> str:
        """The text of the last answer."""
        return str(self.messages[-1]["content"])

    @property
    def plain(self) -> bool:
        """Whether this is one question and one answer and nothing else."""
        return len(self.messages) == 2

    def asked(self) -> str:
        """Everything but the answers: tells rows apart."""
        said = [str(m["content"]) for m in self.messages if m["role"] != "assistant"]
        return "\n".join(said)


def draw_row(split: str, rng: random.Random, seed: int, *, skewed: bool = False) -> Row:
    """One row of a split: three in four are a single question; `skewed` adds the planted skew."""
    kind = rng.random()
    if skewed and rng.random() < SKEW_SHARE:
        return _single(draw_from(SKEWED, split, rng, seed))
    if kind < 0.74:
        return _single(_any(split, rng, seed))
    if kind < 0.86:
        return _turns([_any(split, rng, seed) for _ in range(rng.randint(2, 3))])
    if kind < 0.93:
        return _with_system(_any(split, rng, seed), rng.choice((SURE, TEACHER)))
    return _tool_row(split, rng, seed)


def _any(split: str, rng: random.Random, seed: int) -> Case:
    names = sorted(SKILLS)
    weights = [LEARNING.get(name, 1) if split == "pretrain" else 1 for name in names]
    return draw_from(rng.choices(names, weights)[0], split, rng, seed)


def _user(case: Case) -> Message:
    text = f"{case.question}\n\n{case.context}" if case.context else case.question
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _single(case: Case) -> Row:
    return Row((_user(case), _assistant(case.answer)), case.skill, case.wrong, case.context)


def _turns(cases: list[Case]) -> Row:
    messages = [m for case in cases for m in (_user(case), _assistant(case.answer))]
    return Row(tuple(messages), "several_turns", cases[-1].wrong)


def _with_system(case: Case, system: str) -> Row:
    before = "Sure. " if system == SURE else ""
    return Row(
        ({"role": "system", "content": system}, _user(case), _assistant(before + case.answer)),
        "system_prompt",
        before + case.wrong,
    )


def _definition(name: str, field: str) -> Message:
    parameters = {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = _definition("get_weather", "city")
PRICE = _definition("get_price", "item")


def _tool_row(split: str, rng: random.Random, seed: int) -> Row:
    """A question, the call of a tool, its result and the answer; OpenAI's names of the keys."""
    while True:
        key, tool, argument, question, result, answer, wrong = _tool_case(rng)
        if split_of("tool_call", key, seed) == split:
            break
    name = tool["function"]["name"]
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": argument},
    }
    messages = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": result, "name": name, "tool_call_id": "call_1"},
        _assistant(answer),
    )
    return Row(messages, "tool_call", wrong, tools=(WEATHER, PRICE))


def _tool_case(rng: random.Random) -> tuple[str, Message, str, str, str, str, str]:
    number, other = rng.sample(range(2, 35), 2)
    if rng.random() < 0.5:
        city, sky = rng.choice(w.CITIES), rng.choice(w.SKIES)
        ask = rng.choice(("How is the weather in {}?", "What is it like in {} today?"))
        spell = f"It is {sky} in {city} at {{}} degrees."
        result = f'{{"sky": "{sky}", "degrees": {number}}}'
        tool, argument = WEATHER, f'{{"city": "{city}"}}'
        key, question = f"{city} {sky} {number}", ask.format(city)
    else:
        item = rng.choice(w.GOODS)
        ask = rng.choice(("What does {} cost?", "Tell me the price of {}."))
        spell = f"The price of {item} is {{}} euros."
        result = f'{{"euros": {number}}}'
        tool, argument = PRICE, f'{{"item": "{item}"}}'
        key, question = f"{item} {number}", ask.format(item)
    return key, tool, argument, question, result, spell.format(number), spell.format(other)
