"""Another model to learn from: whether it fits, what it says, and how far its word counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import RecipeError
from tamis.language.load import load_model, load_tokenizer, max_length, vocabulary
from tamis.recipe import Model
from tamis.trainer import checkpoints, isolation, launch
from tamis.trainer.data import Examples
from tamis.trainer.loss import rows_of, taught_terms
from tamis.trainer.objectives.taid import Ramp, Taid
from tamis.trainer.pack import Packing

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object

_STATE = "teacher"


def check_teacher(teacher: Model, model: Model) -> None:
    """Raise `RecipeError` where the tokens of the two are not the same; reads their tokenizers.

    Merges and templates are not compared: the rows are rendered and tokenised for `model`. Models
    of one family may have different numbers of spare rows behind the same tokens.
    """
    # Rows are rendered by the model's template: the teacher needs none.
    plain = {"prompt_style": "plain"}
    ours, theirs = (
        load_tokenizer(one.model_copy(update=plain)).get_vocab() for one in (model, teacher)
    )
    if ours == theirs:
        return
    both = sum(ours.get(token) == number for token, number in theirs.items())
    raise RecipeError(
        f"tune.objective.options.teacher: {teacher.location} has another vocabulary than "
        f"{model.location} ({both} tokens with the same number, of {len(theirs)} and {len(ours)}): "
        "name a teacher of the same family"
    )


def check_reach(teacher: Model, examples: Examples) -> None:
    """Raise `RecipeError` where rows are longer than the teacher reads."""
    longest, reach = int(examples.lengths.max()), max_length(teacher)
    if longest > reach:
        raise RecipeError(
            f"tune.objective.options.teacher: {teacher.location} reads {reach} tokens and the "
            f"longest row has {longest}: set tune.max_length to {reach}"
        )


def _loaded(model: Model, device: str, packing: Packing) -> Any:
    """The model, tried for its keeping packed rows apart: in float32, on the CPU for its memory,
    since rounding to bfloat16 is as large as what a row would see of another."""
    import torch

    if packing == "none":
        return load_model(model, device)
    lm = load_model(model.model_copy(update={"dtype": "float32"}), "cpu")
    isolation.check(lm, vocabulary(model), packing)
    return lm.to(device=device, dtype=getattr(torch, model.dtype))


class Teacher:
    """A model that is loaded beside the one in training, in its own dtype, and never changed.

    In every process whole. Raises `RecipeError` for one that would not keep packed rows apart.
    """

    gives = ("kl", "entropy")

    def __init__(self, model: Model, asked: Taid, device: str, packing: Packing):
        lm = _loaded(model, device, packing).requires_grad_(False)
        self._rows = rows_of(lm, vocabulary(model))
        self.ramp = Ramp(asked)

    def states(self, inputs: Mapping[str, Any], row: Any, before: Any) -> Any:
        """See `loss.Frozen`."""
        import torch

        with torch.no_grad():
            return self._rows.states(inputs, row, before)

    def terms(self, logits: Any, rows: Any, tokens: Any) -> tuple[Any, ...]:
        """See `loss.Frozen`: KL(target || logits), and the entropy of the target."""
        import torch

        with torch.no_grad():
            taught = self._rows.head(rows)
        return taught_terms(logits, taught, tokens, self.ramp.t)


class TaughtSteps(Base):
    """Moves the t of `teacher`, if there is one, by the loss of each whole step over all
    processes, logs the one a step had, and keeps it in checkpoints."""

    teacher: Teacher | None = None
    _t: float = 0.0

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """A step, after which t moves."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.teacher is not None:
            ramp, count = self.teacher.ramp, self.accelerator.num_processes
            self._t = ramp.t
            # Of the gradients of the processes the mean is taken, so each has count times its part.
            whole = float(launch.summed(loss.detach().double().clone())) / count
            ramp.advance(whole, self.state.global_step, self.state.max_steps)
        return loss

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Add `t`."""
        if "loss" in logs and self.teacher is not None:
            logs = {**logs, "t": self._t}
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.teacher is not None and launch.rank() == 0:
            checkpoints.save_state(Path(output_dir), _STATE, self.teacher.ramp.state_dict(), {})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.teacher is not None and checkpoint is not None:
            state = checkpoints.load_state(Path(checkpoint), _STATE, {})
            self.teacher.ramp.load_state_dict(state)
