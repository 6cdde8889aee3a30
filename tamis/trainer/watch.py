"""The loss on held-out rows while a model is trained, and the best state of the model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tamis.recipe import Tune
from tamis.trainer import launch
from tamis.trainer.data import Examples
from tamis.trainer.pack import micro_batches

# Rows that are laid out together.
_ROWS = 256
_INPUTS = ("input_ids", "labels", "position_ids")
_NOTE = "best.json"


def heldout_nll(model: Any, examples: Examples, options: Tune, device: str) -> float:
    """The mean -log p of a trained token of all rows, unweighted: one sum through another, so that
    neither packing nor the number of processes counts.

    `model` has `loss.terms_forward` as its forward; dropout is off. Cost: a forward pass.
    """
    import torch

    sums = torch.zeros(2, dtype=torch.float64, device=device)
    was = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), _ROWS):
            for batch in micro_batches(
                examples,
                np.arange(start, min(start + _ROWS, len(examples))),
                packing=options.packing,
                tokens=options.batch_tokens,
                device=device,
                max_length=options.max_length,
                part=(launch.rank(), launch.processes()),
            ):
                nll = model(**{n: batch[n].to(device) for n in _INPUTS if n in batch})["nll"]
                sums += torch.stack([nll.double().sum(), nll.new_tensor(len(nll)).double()])
    model.train(was)
    total, tokens = launch.summed(sums).tolist()
    return float(total / tokens)


def watch(trainer: Any, examples: Examples, options: Tune, device: str, folder: Path) -> None:
    """Let a trainer evaluate `examples` every `options.evaluate_every` steps and at its end; the
    best state so far lies in `folder/best-STEP`, the first of equal ones. The losses are entries
    `heldout_nll` of its log."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Evaluates, and keeps what is best."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % options.evaluate_every and state.global_step < state.max_steps:
                return
            with settled(trainer), trainer.accelerator.autocast():
                nll = heldout_nll(trainer.model, examples, options, device)
                # Not log(): it would take the place of what the step itself logs.
                state.log_history.append({"step": state.global_step, "heldout_nll": nll})
                if launch.rank() == 0 and nll < _best(folder)[0]:
                    _keep(trainer, nll, folder)

    trainer.add_callback(Watch())


def outcome(trainer: Any, folder: Path) -> dict[str, Any]:
    """Give the model its best state, the last one where no loss was a number; returns the losses
    by step and the step it is of."""
    log = [entry for entry in trainer.state.log_history if "heldout_nll" in entry]
    launch.wait()  # the first process may still be saving
    nll, best = _best(folder)
    if best is not None:
        trainer._load_from_checkpoint(str(best))
    launch.wait()
    return {
        "heldout_history": [{"step": e["step"], "nll": e["heldout_nll"]} for e in log],
        "heldout_nll": nll if best else log[-1]["heldout_nll"],
        "best_step": int(best.name.split("-")[1]) if best else trainer.state.global_step,
    }


def _best(folder: Path) -> tuple[float, Path | None]:
    """The lowest loss so far and where its state lies."""
    found = [
        (float(json.loads((path / _NOTE).read_text(encoding="utf-8"))["nll"]), path)
        for path in folder.glob("best-*")
        if path.suffix != ".partial"
    ]
    return min(found, default=(math.inf, None))


def _keep(trainer: Any, nll: float, folder: Path) -> None:
    """Save the model as the best one. The one before goes only when this one is whole."""
    older = [path for path in folder.glob("best-*")]
    place = folder / f"best-{trainer.state.global_step}"
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer._save(str(partial))
    (partial / _NOTE).write_text(json.dumps({"nll": nll}), encoding="utf-8")
    partial.replace(place)
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def settled(trainer: Any) -> Iterator[None]:
    """For a block, the weights as they will be used: a schedule-free optimizer keeps them apart."""
    optimizer = trainer.optimizer
    apart = hasattr(getattr(optimizer, "optimizer", optimizer), "eval")
    if apart:
        optimizer.eval()
    try:
        yield
    finally:
        if apart:
            optimizer.train()
