"""Where online selection reaches into the engine: a step's rows, its checkpoints, its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.trainer import checkpoints, launch

if TYPE_CHECKING:
    from transformers import Trainer as Base

    from tamis.trainer.online.picking import Picking
else:
    Base = object

_STATE = "online"


class OnlineSteps(Base):
    """Lets `picking`, if there is one, cut every step before the loss is given its divisor.

    Scores are made when a step is asked for, not ahead of it, so they are those of the model as
    the step finds it; the steps are as many as they were drawn.
    """

    picking: Picking | None = None

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The steps that come next, cut."""
        if self.picking is not None:
            epoch_iterator = map(self.picking.cut, epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Add what the picking of the step had to tell."""
        if "loss" in logs and self.picking is not None:
            logs = {**logs, "online": self.picking.told}
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.picking is not None and launch.rank() == 0:
            self.picking.picks.flush(self.state.global_step)
            belongs = {**self.picking.belongs(), "step": self.state.global_step}
            state = self.picking.state_dict()
            checkpoints.save_state(Path(output_dir), _STATE, state, belongs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.picking is not None and checkpoint is not None:
            step = int(Path(checkpoint).name.split("-")[1])
            belongs = {**self.picking.belongs(), "step": step}
            self.picking.load_state_dict(checkpoints.load_state(Path(checkpoint), _STATE, belongs))
            if launch.rank() == 0:
                self.picking.picks.resume(step)
