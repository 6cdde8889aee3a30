"""Replies of a server: what they say, and on disk, one file a request, named by its content."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: the `text`; of each token that was told, in order, the token and the
    natural log-probabilities of the likeliest ones in its place; `ended` False where it was cut."""

    text: str
    tokens: tuple[tuple[str, Mapping[str, float]], ...]
    ended: bool = True


class Unusable(Exception):
    """A try that failed and may be repeated; `wait` is what the server asks for, in seconds."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def read(found: Mapping[str, Any]) -> Reply:
    """The reply in what a server sent; raises `Unusable` for any other shape."""
    try:
        choice = found["choices"][0]
        chat = "message" in choice
        text = choice["message"].get("content") if chat else choice["text"]
        told = choice.get("logprobs") or {}
        if chat:
            tokens = tuple(
                (t["token"], {o["token"]: float(o["logprob"]) for o in t.get("top_logprobs", ())})
                for t in told.get("content") or ()
            )
        else:
            tops = told.get("top_logprobs") or ()
            pairs = zip(told.get("tokens") or (), tops, strict=False)
            tokens = tuple((t, {k: float(v) for k, v in (top or {}).items()}) for t, top in pairs)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"a reply of another shape: {str(found)[:200]}") from error
    return Reply(text or "", tokens, choice.get("finish_reason") != "length")


def usage(found: Mapping[str, Any], most: int) -> int:
    """Tokens the server says it took; the most it can have been when it does not say."""
    told = found.get("usage")
    total = told.get("total_tokens") if isinstance(told, dict) else None
    return total if isinstance(total, int) and total >= 0 else most


class Replies:
    """A folder of replies; None keeps nothing. A damaged file counts as none."""

    def __init__(self, folder: str | Path | None) -> None:
        """The folder is made when the first reply comes."""
        self._folder = None if folder is None else Path(folder)

    def key(self, place: str, body: Mapping[str, Any]) -> str:
        """32 hex digits over where a request goes and what it says."""
        text = orjson.dumps([place, body], option=orjson.OPT_SORT_KEYS)
        return blake2b(text, digest_size=16).hexdigest()

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply of this key, if there is one."""
        if self._folder is None:
            return None
        try:
            found = orjson.loads(self._path(key).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep a reply: whole or not at all, whenever the process dies."""
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}.{os.getpid()}-{threading.get_ident()}.tmp")
        with temporary.open("wb") as stream:
            stream.write(orjson.dumps(reply))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
