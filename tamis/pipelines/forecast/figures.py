"""The figures of a forecast: pieces of work, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tamis.language.tally import Tally


@dataclass(slots=True)
class Work:
    """One piece of work of a stage.

    `reused` and `computed` count what the stage counts (values, artefacts). `rows` are those to
    work on, `read` what models read for them, `written` in it the most they can write. `seconds` is
    None where nobody knows, and `how` tells why, or how they were found. `exact` says whether the
    counts are those of the run; seconds never are. `bytes` are what it adds to the store.
    """

    stage: str
    what: str
    reused: int = 0
    computed: int = 0
    rows: int = 0
    read: Tally = field(default_factory=Tally)
    seconds: float | None = None
    bytes: int = 0
    exact: bool = True
    how: str = ""
    tunings: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """All work of a run in its order; `leaves` is what would leave this machine, a line each;
    `notes` what the reader must know."""

    recipe: str
    store: str
    device: str
    work: Sequence[Work]
    leaves: Sequence[str]
    notes: Sequence[str]

    def document(self) -> dict[str, Any]:
        """As JSON-like values: `stages` with the sums of their `work`, then the sums of all."""
        names = list(dict.fromkeys(w.stage for w in self.work))
        stages = [
            {
                "stage": name,
                **_summed(mine := [w for w in self.work if w.stage == name]),
                "work": [asdict(w) for w in mine],
            }
            for name in names
        ]
        return {
            "recipe": self.recipe,
            "store": self.store,
            "device": self.device,
            "stages": stages,
            "all": _summed(self.work),
            "not_timed": [
                f"{w.stage} {w.what}" for w in self.work if w.seconds is None and w.computed
            ],
            "leaves": list(self.leaves),
            "notes": list(self.notes),
        }


def _summed(work: Sequence[Work]) -> dict[str, Any]:
    read = Tally()
    for w in work:
        read.add(w.read)
    return {
        "reused": sum(w.reused for w in work),
        "computed": sum(w.computed for w in work),
        "read": asdict(read),
        "tunings": sum(w.tunings for w in work),
        "seconds": sum(w.seconds or 0.0 for w in work),
        "bytes": sum(w.bytes for w in work),
        "exact": all(w.exact for w in work),
    }
