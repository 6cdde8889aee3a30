"""What every stage is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from tamis.language.tally import Tally
from tamis.recipe import Recipe
from tamis.storage.artifact import Say, Store

Advance = Callable[[int], None]
# progress(title, total_rows) -> context manager that yields advance(rows)
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True)
class Context:
    """The recipe, the store, the device, the two ways to tell people how it goes (both on stderr),
    and of how many array jobs that share the store this is which: (i, of n)."""

    recipe: Recipe
    store: Store
    device: str
    say: Say
    progress: Progress
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did: the keys of its artefacts, how many units it reused and computed, and facts
    to print, and what models read for it (not those behind endpoints)."""

    stage: str
    keys: Mapping[str, str]
    reused: int
    computed: int
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    read: Tally = field(default_factory=Tally)

    def document(self) -> dict[str, Any]:
        """All but the facts, as JSON-like values."""
        return {
            "stage": self.stage,
            "reused": self.reused,
            "computed": self.computed,
            "seconds": self.seconds,
            "read": asdict(self.read),
            "keys": dict(self.keys),
        }
