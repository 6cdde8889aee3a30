"""Which sequences begin alike, so that their beginning need be read only once a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

# Tokens that must agree before sequences count as beginning alike, and how many must do so: less
# saves nothing.
LEAST = 16
_ROWS = 4


class Aimed(Protocol):
    """A sequence of token ids, some of which are to be predicted."""

    ids: Sequence[int]
    targets: np.ndarray


def shared(passes: Sequence[Aimed]) -> tuple[np.ndarray, np.ndarray]:
    """The group of each sequence, int64 (n,), and the tokens all of its group begin with, (n,).

    Sequences are of one group when their first 16 tokens are equal, none of which may be a target
    or the token before one: the states of what is shared are not kept. Group 0 shares nothing.
    O(tokens that are shared).
    """
    group, length = np.zeros(len(passes), dtype=np.int64), np.zeros(len(passes), dtype=np.int64)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, p in enumerate(passes):
        if len(p.targets) and p.targets[0] > LEAST:
            alike.setdefault(tuple(p.ids[:LEAST]), []).append(i)
    for number, rows in enumerate(alike.values(), 1):
        if len(rows) >= _ROWS:
            group[rows] = number
            length[rows] = _common(passes, rows)
    return group, length


def _common(passes: Sequence[Aimed], rows: list[int]) -> int:
    most = min(int(passes[i].targets[0]) for i in rows) - 1
    for i in rows[1:]:
        equal = np.equal(passes[rows[0]].ids[:most], passes[i].ids[:most])
        most = len(equal) if equal.all() else int(equal.argmin())
    return most


def reads_on(backbone: Any, ids: Any) -> bool:
    """Whether a model that has read the first tokens of `ids` (1, t) gives the states of the rest
    as when it reads all at once (1e-5), from a cache of all tokens that can be copied to rows.

    Windows and recurrent states are caches of another kind, and half precision may round
    differently: there the answer is no, and nothing is shared.
    """
    half = ids.shape[1] // 2
    cache = getattr(backbone(input_ids=ids, use_cache=True), "past_key_values", None)
    if {type(layer).__name__ for layer in getattr(cache, "layers", ())} != {"DynamicLayer"}:
        return False
    whole = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, half:]
    rest = after(backbone, ids, ids.new_ones(ids.shape), half)
    if rest.shape != whole.shape:
        return False
    scale = whole.abs().max().clamp_min(1e-6)
    return bool(((rest - whole).abs().max() / scale) < 1e-5)


def after(backbone: Any, ids: Any, mask: Any, length: int) -> Any:
    """The states (b, t - length, d) behind the first `length` tokens, equal in all rows of `ids`
    (b, t), which are read once."""
    cache = backbone(input_ids=ids[:1, :length], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    return backbone(
        input_ids=ids[:, length:], attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
