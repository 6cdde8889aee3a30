"""Sampled answers: several a prompt, each from a random stream of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tamis.language import tally
from tamis.language.batch import batches
from tamis.language.forward import Engine
from tamis.language.generate import left_padded, stop_ids
from tamis.language.next_token import steps
from tamis.language.parallel import spread
from tamis.language.room import Room
from tamis.numerics.device import resolve

# Tokens of prompt and answers that may be held at once, and answers written at once.
_TOKENS = {"cpu": 16_384, "cuda": 262_144}
_ROWS = {"cpu": 64, "cuda": 512}


class Sampled(NamedTuple):
    """The ids of one answer without the token that stops; `ended` False where it was cut off."""

    ids: list[int]
    ended: bool


def sample(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    count: int,
    stops: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    advance: Callable[[int], None],
) -> list[list[Sampled]]:
    """`count` sampled continuations of each prompt, in the order of the prompts.

    Each answer draws from a stream seeded by `seed`, the name of its prompt and its number, so it
    does not depend on the batch, the order or the other answers (but where a draw falls within
    rounding, 1e-6, of the border between two tokens). Probabilities are softmax(logits /
    temperature), with `top_p` < 1 those of the fewest tokens that hold this much. The model's own
    generation settings are not used. Temperature 0 always takes the most probable token.

    When CUDA memory runs out fewer prompts run together, as in `Room`. Cost: each prompt runs once,
    then one token a step of every answer that has not ended.
    """
    results: list[list[Sampled]] = [[] for _ in prompts]
    if not prompts or count < 1 or max_new_tokens < 1:
        return results
    device = resolve(engine.device)
    lengths = np.array([len(p) for p in prompts])
    most = max(1, _ROWS[device] // count)
    widths = (lengths + max_new_tokens) * count
    room = Room(_TOKENS[device])
    groups = [
        rows
        for batch in batches(widths, room.tokens)
        for rows in np.split(batch, range(most, len(batch), most))
    ]

    def write(rows: np.ndarray) -> list[list[Sampled]]:
        streams = [_stream(seed, names[i], j) for i in rows for j in range(count)]
        draws = _Draws(streams, temperature, top_p)
        prefixes = [prompts[i] for i in rows]
        made = _written(engine, prefixes, count, draws, set(stops), max_new_tokens)
        return [made[i : i + count] for i in range(0, len(made), count)]

    engine.network  # noqa: B018 - loaded once, before the threads ask for it
    with spread(device) as run:
        found = run(lambda rows: room.run(rows, widths, write), groups)
        for rows, made in zip(groups, found, strict=True):
            for row, answers in zip(rows, made, strict=True):
                results[row] = answers
            written = sum(len(answer.ids) for answers in made for answer in answers)
            tally.note(len(rows), int(lengths[rows].sum()), written)
            advance(len(rows))
    return results


def stops(engine: Engine) -> list[int]:
    """The ids that end an answer of the engine's model, ascending."""
    from transformers import GenerationConfig

    model = engine.model
    try:
        config = GenerationConfig.from_pretrained(model.location, revision=model.revision or "main")
    except OSError:
        config = None  # not every model comes with one
    return stop_ids(engine.tokenizer, prompt_style=model.prompt_style, config=config)


def _stream(seed: int, name: str, number: int) -> np.random.Generator:
    text = f"{seed}\0{name}\0{number}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))


class _Draws:
    """One random number a step for each answer, turned into a token."""

    def __init__(
        self, streams: list[np.random.Generator], temperature: float, top_p: float
    ) -> None:
        self._streams, self._temperature, self._top_p = streams, temperature, top_p

    def tokens(self, logits: Any, alive: np.ndarray) -> Any:
        """The next token of the answers `alive` by their logits (b, V), by inverse transform."""
        import torch

        if self._temperature == 0:
            return logits.argmax(dim=-1, keepdim=True)
        given = [self._streams[i].random() for i in alive]
        u = torch.tensor(given, dtype=torch.float64, device=logits.device)[:, None]
        p = torch.softmax(logits.double() / self._temperature, dim=-1)
        order = None
        if self._top_p < 1:
            p, order = p.sort(dim=-1, descending=True, stable=True)
            p = p * (p.cumsum(dim=-1) - p < self._top_p)
        table = p.cumsum(dim=-1)
        last = (p > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
        at = torch.searchsorted(table, u * table[:, -1:], right=True)
        at = torch.minimum(at, last)  # a draw that rounds up to 1
        return at if order is None else order.gather(1, at)


def _written(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    count: int,
    draws: _Draws,
    stops: set[int],
    max_new_tokens: int,
) -> list[Sampled]:
    """All answers of a batch of prompts, those of one prompt together."""
    import torch

    step, device = steps(engine.network), resolve(engine.device)
    made: list[list[int]] = [[] for _ in range(len(prompts) * count)]
    ended = np.zeros(len(made), dtype=bool)
    alive = np.arange(len(made))
    with torch.inference_mode():
        ids, mask = (torch.from_numpy(a).to(device) for a in left_padded(prompts))
        place = (mask.cumsum(dim=1) - 1).clamp_min(0)
        logits, cache = step(ids, mask, place, None)
        cache.batch_repeat_interleave(count)
        logits, mask = (t.repeat_interleave(count, dim=0) for t in (logits, mask))
        place = place[:, -1:].repeat_interleave(count, dim=0)
        for left in range(max_new_tokens - 1, -1, -1):
            drawn = draws.tokens(logits, alive)
            fresh = drawn[:, 0].tolist()
            going = np.array([token not in stops for token in fresh])
            ended[alive[~going]] = True
            for i in np.flatnonzero(going):
                made[alive[i]].append(fresh[i])
            if not left or not going.any():
                break
            if not going.all():
                keep = torch.from_numpy(np.flatnonzero(going)).to(device)
                cache.batch_select_indices(keep)
                drawn, mask, place = drawn[keep], mask[keep], place[keep]
                alive = alive[going]
            mask = torch.cat([mask, torch.ones_like(drawn)], dim=1)
            place = place + 1
            logits, cache = step(drawn, mask, place, cache)
    return [Sampled(answer, bool(end)) for answer, end in zip(made, ended, strict=True)]
