"""A run that goes on picks the rows it would have picked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import TamisError
from tamis.trainer import checkpoints

# Far enough from 0 that diversity decides: an empty queue then changes picks.
DIVERSE = {"alpha": 0.23, "queue": 1024, "vocab_dim": 128}
GIVEN = {"options": {"rank": 4, "dropout": 0.1}, "epochs": 2, "save_every": 1}


@pytest.mark.parametrize("stop", [4, 6, 9], ids=["mid-epoch", "at the border", "short of the end"])
@pytest.mark.parametrize("method", ["uds", "bds", "kmeans"])
def test_it_goes_on_bit_for_bit(
    run: Any, chosen: Any, picks: Any, same: Any, progress: Any, method: str, stop: int
) -> None:
    given = {**GIVEN, "online": chosen(method, **(DIVERSE if method == "uds" else {}))}
    whole = run("whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run("cut", **given, bar=progress(stop_at=stop))
    report = run("cut", **given)
    assert report["resumed_from_step"] == stop - 1
    assert picks("cut").equals(picks("whole"))
    assert same("whole", "cut")
    assert report["history"] == whole["history"]
    for name in ("kept_tokens", "fragile", "rows_by_times_trained", "most_trained"):
        assert report["online"][name] == whole["online"][name]


def test_with_an_empty_queue_it_would_have_picked_others(
    run: Any, chosen: Any, kept: Any, progress: Any, tmp_path: Path
) -> None:
    """Or the test above would say nothing of the queue."""
    given = {**GIVEN, "online": chosen("uds", **DIVERSE)}
    run("whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run("cut", **given, bar=progress(stop_at=6))
    path = tmp_path / "cut" / "checkpoints" / "checkpoint-5" / "online.json"
    kept_state = json.loads(path.read_text())
    assert kept_state["state"]["rule.count"] == 20
    kept_state["state"]["rule.count"] = kept_state["state"]["rule.pointer"] = 0
    path.write_text(json.dumps(kept_state))
    run("cut", **given)
    assert kept("cut")[:5] == kept("whole")[:5]
    assert kept("cut") != kept("whole")


def test_a_state_of_another_run_is_refused(
    run: Any, chosen: Any, progress: Any, tmp_path: Path
) -> None:
    given = {**GIVEN, "online": chosen("uds")}
    with pytest.raises(KeyboardInterrupt):
        run("cut", **given, bar=progress(stop_at=4))
    folder = tmp_path / "cut" / "checkpoints" / "checkpoint-3"
    note = json.loads((folder / "online.json").read_text())
    assert set(note["belongs"]) == {"rule", "options", "keep", "group", "data", "processes", "step"}
    assert note["belongs"]["step"] == 3 and note["belongs"]["processes"] == 1
    for key, other in (("processes", 2), ("data", "0" * 32), ("keep", 0.25), ("rule", "bds")):
        with pytest.raises(TamisError, match=f"saved with {key}"):
            checkpoints.load_state(folder, "online", {**note["belongs"], key: other})
    (folder / "online.json").unlink()
    with pytest.raises(TamisError, match="no state of online"):
        run("cut", **given)
