"""Diagnostics while a model is trained: columns of its log that nothing in training reads."""

from __future__ import annotations

from typing import Any

from tamis.recipe import Diagnose
from tamis.trainer import launch
from tamis.trainer.cloud import Cloud
from tamis.trainer.data import Examples
from tamis.trainer.intruders import Intruders
from tamis.trainer.online.columns import Columns
from tamis.trainer.watch import settled

BEFORE = "diagnosed_before"


class Diagnosis:
    """The diagnostics that are asked for; make it before the method prepares the model.

    Columns: `lid` and `lid_std` of training rows, `lid_heldout` and `lid_heldout_std` of held-out
    ones where they are watched, `intruders`. They are made by the first process, in float32, in
    evaluation mode, and draw nothing: training goes on as without them.
    """

    def __init__(
        self, asked: Diagnose, lm: Any, device: str, rows: Examples, heldout: Examples | None
    ):
        self.every, self.lm, self.device = asked.every, lm, device
        self.intruders = Intruders(lm) if asked.intruders else None
        sets = {"lid": rows, "lid_heldout": heldout} if asked.lid else {}
        self.clouds = {
            name: (
                examples,
                Cloud(
                    examples,
                    texts=asked.texts,
                    points=asked.points,
                    neighbours=asked.neighbours,
                ),
            )
            for name, examples in sets.items()
            if examples is not None
        }

    def columns(self, trained: Any) -> dict[str, float | None]:
        """The figures of the model as it is now."""
        found: dict[str, float | None] = {}
        for name, (examples, cloud) in self.clouds.items():
            told = cloud.dimension(Columns(trained, self.lm, examples, self.device, 0))
            found[name], found[f"{name}_std"] = told or (None, None)
        if self.intruders is not None:
            found["intruders"] = self.intruders.mean(self.lm)
        return found


def attach(trainer: Any, diagnosis: Diagnosis) -> None:
    """Let a trainer look before its first step, every so many steps, and after the last: what it
    sees becomes a part of the step's entry in the log, the first an entry of its own."""
    from transformers import TrainerCallback

    def look() -> dict[str, float | None]:
        if launch.rank() > 0:
            return {}
        with settled(trainer):
            return diagnosis.columns(trainer.model)

    class Look(TrainerCallback):
        """Looks when it is time."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                state.log_history.append({"step": 0, BEFORE: look()})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % diagnosis.every == 0 or state.global_step == state.max_steps:
                trainer.diagnosed = look()

    trainer.add_callback(Look())


def before(trainer: Any) -> dict[str, Any]:
    """What was seen before the first step, for the report."""
    found = [entry[BEFORE] for entry in trainer.state.log_history if BEFORE in entry]
    return {BEFORE: found[0]} if found else {}
