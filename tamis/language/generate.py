"""Greedy generation in batches, and the tokens at which it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tamis.language import tally
from tamis.language.batch import batches
from tamis.language.parallel import spread
from tamis.language.render import render, special_ids
from tamis.language.room import Room
from tamis.language.template import RenderError

# Padded prompt tokens of a batch, and its rows: the cache of keys and values grows with both.
_TOKENS = {"cpu": 4096, "cuda": 131_072}
_ROWS = {"cpu": 64, "cuda": 512}


def stop_ids(tokenizer: Any, *, prompt_style: str, config: Any = None) -> list[int]:
    """The ids that end an answer: EOS, the token that ends an assistant turn, and those that the
    model's generation config names. Ascending."""
    named = getattr(config, "eos_token_id", None)
    found = {named} if isinstance(named, int) else set(named or ())
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        rendered = render(probe, None, tokenizer, prompt_style=prompt_style)
    except RenderError:
        return sorted(found)  # a template that wants other turns; EOS is what is left
    start, stop = rendered.spans[-1]
    special = special_ids(tokenizer)
    found.update([i for i in rendered.ids[start:stop] if i in special][-1:])
    return sorted(found)


def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    max_new_tokens: int,
    advance: Callable[[int], None],
) -> list[list[int]]:
    """The most probable continuation of each prompt, token by token, without the token that stops.

    `prompts` hold at least one id each; the results are in their order. Prompts run with others of
    like length, padded on the left, with a cache; at most `max_new_tokens` forwards a batch beyond
    the prompt's. When CUDA memory runs out fewer run together, as in `Room`. The model's own
    generation settings (sampling, penalties) are not used.
    """
    import torch
    from transformers import GenerationConfig

    results: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 1 or not prompts:
        return results
    device = next(model.parameters()).device
    # Otherwise what the model's folder says would fill in whatever is not set here.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        use_cache=True,
    )
    lengths = np.array([len(p) for p in prompts])
    most = _ROWS[device.type]
    room = Room(_TOKENS[device.type])
    groups = [
        rows
        for batch in batches(lengths, room.tokens)
        for rows in np.split(batch, range(most, len(batch), most))
    ]

    def continued(rows: np.ndarray) -> list[list[int]]:
        ids, mask = left_padded([prompts[i] for i in rows])
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                generation_config=settings,
            )
        return [_until(new, stops) for new in out[:, ids.shape[1] :].tolist()]

    with spread(device.type) as run:
        found = run(lambda rows: room.run(rows, lengths, continued), groups)
        for rows, made in zip(groups, found, strict=True):
            for row, new in zip(rows, made, strict=True):
                results[row] = new
            tally.note(len(rows), int(lengths[rows].sum()), sum(map(len, made)))
            advance(len(rows))
    return results


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask (b, t) of prompts that end together, for what goes on from there."""
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, p in enumerate(prompts):
        ids[i, width - len(p) :] = p
        mask[i, width - len(p) :] = 1
    return ids, mask


def _until(ids: list[int], stops: Sequence[int]) -> list[int]:
    """The ids before the first that stops."""
    at = next((j for j, token in enumerate(ids) if token in stops), len(ids))
    return ids[:at]
