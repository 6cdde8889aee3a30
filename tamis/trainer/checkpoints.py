"""Checkpoints of a run that was interrupted: which of them count, and whose they are.

They are written by transformers and hold, beside safetensors, optimizer and generator states in
torch's own format. They exist only while a run is unfinished, are loaded with `weights_only`, and
are removed at its end. The pickled arguments that transformers adds are deleted at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.errors import TamisError

_DONE = "complete.json"
_RUN = "run.json"


def latest(folder: Path, identity: str) -> Path | None:
    """The newest whole checkpoint of the run with this identity; None when there is none.

    Removes checkpoints that were cut off while they were written. Raises `TamisError` when the
    folder holds checkpoints of other data, options or another model.
    """
    note = folder / _RUN
    if not note.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # killed before anything could be saved
        folder.mkdir(parents=True)
        _write(note, {"identity": identity})
        return None
    if json.loads(note.read_text(encoding="utf-8"))["identity"] != identity:
        raise TamisError(
            f"{folder} holds checkpoints of a run on other data, with other options or another "
            "model: remove it to start anew, or name another folder"
        )
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / _DONE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole; called when everything of it is written."""
    (checkpoint / "training_args.bin").unlink(missing_ok=True)
    _write(checkpoint / _DONE, {})


def save_state(
    checkpoint: Path, name: str, state: Mapping[str, Any], belongs: Mapping[str, Any]
) -> None:
    """Keep a state (tensors, arrays, plain numbers) and what it belongs to in a checkpoint."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    tensors, plain = {}, {}
    for key, value in state.items():
        if isinstance(value, np.ndarray | torch.Tensor):
            tensors[key] = torch.as_tensor(value).detach().cpu().contiguous()
        else:
            plain[key] = value
    temporary = checkpoint / f"{name}.safetensors.tmp"
    save_file(tensors, temporary)
    temporary.replace(checkpoint / f"{name}.safetensors")
    _write(checkpoint / f"{name}.json", {"state": plain, "belongs": dict(belongs)})


def load_state(checkpoint: Path, name: str, belongs: Mapping[str, Any]) -> dict[str, Any]:
    """What `save_state` kept. Raises `TamisError` when it is missing or belongs to another run."""
    from safetensors.torch import load_file

    note = checkpoint / f"{name}.json"
    if not note.is_file():
        raise TamisError(
            f"{checkpoint} has no state of {name}: remove the folder of checkpoints to start anew"
        )
    kept = json.loads(note.read_text(encoding="utf-8"))
    for key, wanted in belongs.items():
        if kept["belongs"].get(key) != wanted:
            raise TamisError(
                f"{checkpoint}: the state of {name} was saved with {key} "
                f"{kept['belongs'].get(key)!r}, this run has {wanted!r}: go on as it began, or "
                "remove the folder of checkpoints to start anew"
            )
    return {**kept["state"], **load_file(checkpoint / f"{name}.safetensors")}


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
