"""The feed-forward part of a model's last block, run only where its result is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any


class Narrow:
    """Which tokens the feed-forward part of the last block reads: all, but within `only`.

    No other token looks at its result, so it may be left out where no logits are wanted; the states
    of the backbone there are then without meaning. Each thread has its own choice.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[Any, Any]] = {}
        self._shapes: dict[int, Any] = {}

    @contextmanager
    def only(self, row: Any, column: Any) -> Iterator[None]:
        """Inside, only the tokens at (row, column) of a batch are read, each (m,)."""
        self._places[get_ident()] = row, column
        try:
            yield
        finally:
            del self._places[get_ident()]

    def before(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hook before the part: the states it is given, (b, t, d), become (1, m, d)."""
        places = self._places.get(get_ident())
        if places is None:
            return None
        self._shapes[get_ident()] = args[0].shape
        return (args[0][places][None],)

    def after(self, module: Any, args: tuple[Any, ...], out: Any) -> Any:
        """Hook behind the part: what it gave, (1, m, d), is put where it belongs."""
        places = self._places.get(get_ident())
        if places is None:
            return None
        whole = out.new_zeros(self._shapes.pop(get_ident()))
        whole[places] = out[0]
        return whole


def narrow(backbone: Any, ids: Any) -> Narrow | None:
    """Let the last block of `backbone` leave tokens out, if a probe of `ids` (1, t) gives the same
    states (1e-5) where they are wanted; else None, and nothing is changed."""
    part = _last_feed_forward(backbone)
    if part is None:
        return None
    whole = backbone(input_ids=ids, use_cache=False).last_hidden_state
    kinds: list[bool] = []
    watch = part.register_forward_hook(lambda m, args, out: kinds.append(_plain(args, out)))
    backbone(input_ids=ids, use_cache=False)
    watch.remove()
    if kinds != [True]:
        return None
    found = Narrow()
    hooks = part.register_forward_pre_hook(found.before), part.register_forward_hook(found.after)
    column = ids.new_tensor([ids.shape[1] // 2, ids.shape[1] - 1])
    with found.only(column.new_zeros(2), column):
        some = backbone(input_ids=ids, use_cache=False).last_hidden_state[0, column]
    scale = whole.abs().max().clamp_min(1e-6)
    if bool(((some - whole[0, column]).abs().max() / scale) < 1e-5):
        return found
    for hook in hooks:
        hook.remove()
    return None


def _last_feed_forward(backbone: Any) -> Any:
    """The module `mlp` of the last block, or None."""
    found = [m for name, m in backbone.named_modules() if name.rsplit(".", 1)[-1] == "mlp"]
    return found[-1] if found else None


def _plain(args: tuple[Any, ...], out: Any) -> bool:
    """Whether a module takes states (b, t, d) as its only argument and gives states."""
    return len(args) == 1 and getattr(out, "shape", None) == args[0].shape and args[0].ndim == 3
