"""The probabilities of given tokens right after a prompt, of many prompts that begin alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np

from tamis.language.forward import Done, Engine
from tamis.language.generate import left_padded
from tamis.language.network import SplitNetwork
from tamis.numerics.device import resolve


def after_suffixes(
    engine: Engine,
    prefixes: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    *,
    done: Done | None = None,
) -> list[np.ndarray]:
    """Natural log-probabilities of `tokens[j]` after prefix i and suffix j: float64 [(n, t_j)].

    A prefix runs once, each suffix from its keys and values, so the cost is one forward of every
    prefix and n times every suffix, and one row of logits for each. Both hold at least one id.
    Batches and memory as in `Engine.run`: a value differs by rounding (1e-6 in float32) with the
    others in its batch. Log-softmax is in float32 over the whole vocabulary.
    """
    longest = max(map(len, suffixes), default=0)
    widths = np.array([len(p) + longest for p in prefixes], dtype=np.int64)

    def compute(rows: np.ndarray) -> list[list[np.ndarray]]:
        found = _after(engine, [prefixes[i] for i in rows], suffixes, tokens)
        return [[values[i] for values in found] for i in range(len(rows))]

    rows = engine.each(widths, compute, done=done)
    return [
        np.array([row[j] for row in rows]).reshape(len(prefixes), len(t))
        for j, t in enumerate(tokens)
    ]


def steps(network: Any) -> Callable[..., tuple[Any, Any]]:
    """A function that runs a model one stretch further: (ids, mask, positions, cache) -> the
    logits (b, V) at the last position, float32, and the cache."""
    split = isinstance(network, SplitNetwork)
    model = network.backbone if split else network.model
    # Of a model that makes its logits whole those of the last position are enough, if it can.
    known = signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in known and not split else {}

    def step(ids: Any, mask: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        out = model(**given, past_key_values=cache, use_cache=True, **last)
        logits = network.head(out.last_hidden_state[:, -1]) if split else out.logits[:, -1]
        return logits.float(), out.past_key_values

    return step


def _after(
    engine: Engine,
    prefixes: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
) -> list[np.ndarray]:
    """What `after_suffixes` gives, of one batch."""
    import torch

    step, device = steps(engine.network), resolve(engine.device)
    found = []
    with torch.inference_mode():
        ids, mask = (torch.from_numpy(a).to(device) for a in left_padded(prefixes))
        before = (mask.cumsum(dim=1) - 1).clamp_min(0)
        cache = None
        for suffix, wanted in zip(suffixes, tokens, strict=True):
            if cache is None:
                _, cache = step(ids, mask, before, None)
            more = torch.tensor(suffix, device=device).expand(len(prefixes), -1)
            whole = torch.cat([mask, torch.ones_like(more)], dim=1)
            places = before[:, -1:] + 1 + torch.arange(len(suffix), device=device)
            logits, cache = step(more, whole, places, cache)
            of = torch.tensor(wanted, device=device)
            logprobs = torch.log_softmax(logits, dim=-1)[:, of]
            found.append(logprobs.cpu().numpy().astype(np.float64))
            if cache.is_croppable:
                cache.crop(-len(suffix))
            else:
                cache = None  # states that cannot go back: the prefix runs again
    return found
