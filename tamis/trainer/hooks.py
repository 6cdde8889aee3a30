"""Where a tuning method reaches into the engine: its optimizer, its steps, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.trainer import launch
from tamis.trainer.methods import Method

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object

_TRAINED, _TENSORS, _VALUES = "trained.safetensors", "method.safetensors", "method.json"


class MethodHooks(Base):
    """Lets `method` choose what is optimised and how; saves what is trained, and only that.

    A checkpoint holds the parameters that required grad when training began, under their names in
    the trained model, whatever wraps it: what never changes is made again by `Method.prepare`.
    """

    method: Method

    def create_optimizer(self, model: Any = None) -> Any:
        """The method's own optimizer, or the recipe's over the method's parameters."""
        model = self.model if model is None else model
        self.trained_names = [n for n, p in model.named_parameters() if p.requires_grad]
        rate, decay = self.args.learning_rate, self.args.weight_decay
        own = self.method.optimizer(model, rate, decay)
        if own is not None:
            self.optimizer = own
            return own
        groups = self.method.parameters(model, rate, decay)
        if groups is None:
            return super().create_optimizer(model)
        cls, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = cls(groups, **settings)
        return self.optimizer

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """A step with gradients, or the method's own without."""
        if not self.method.steps_itself:
            return super().training_step(model, inputs, num_items_in_batch) + self._penalty()
        optimizer: Any = self.optimizer
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        told = self._loss_of(model, inputs, num_items_in_batch)
        return self.method.training_step(told, self.state.global_step, rate)

    def _penalty(self) -> Any:
        """Add the gradient of the method's own term, alike on all ranks; returns the term."""
        import torch

        term = self.method.penalty()
        if term is None:
            return 0.0
        # Not backward(): the gradients of the ranks have been averaged already.
        model: Any = self.model
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter, gradient in zip(
            trained, torch.autograd.grad(term, trained, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.grad = gradient + (0 if parameter.grad is None else parameter.grad)
        return term.detach()

    def _loss_of(self, model: Any, inputs: dict[str, Any], total: Any) -> Callable[[], Any]:
        import torch

        batches = [self._prepare_inputs(batch) for batch in inputs["micro"]]

        def loss() -> Any:
            self._sums.clear()  # a step is counted once, however often it is asked
            model.eval()
            with torch.no_grad():
                parts = [self.compute_loss(model, b, num_items_in_batch=total) for b in batches]
            return launch.summed(sum(parts) / self.accelerator.num_processes)

        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        if not self.args.should_save:  # every rank comes here
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        given = state_dict or dict(self.model.named_parameters())
        kept = {n: given[n].detach().contiguous().cpu() for n in self.trained_names}
        save_file(kept, folder / _TRAINED)
        tensors, values = self.method.state_dict()
        if tensors:
            save_file(
                {n: t.detach().contiguous().cpu() for n, t in tensors.items()}, folder / _TENSORS
            )
        (folder / _VALUES).write_text(json.dumps(values), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        import torch
        from safetensors.torch import load_file

        folder = Path(resume_from_checkpoint)
        parameters = dict((self.model if model is None else model).named_parameters())
        with torch.no_grad():
            for name, value in load_file(folder / _TRAINED).items():
                parameters[name].copy_(value)
        tensors = load_file(folder / _TENSORS) if (folder / _TENSORS).is_file() else {}
        values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
        self.method.load_state_dict(tensors, values)


def callback(method: Method) -> Any:
    """Tells the method when a step begins and ends."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        """See `Method.step_begin` and `Method.step_end`."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            optimizer = given["optimizer"]
            method.step_begin(state.global_step, getattr(optimizer, "optimizer", optimizer))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            method.step_end(state.global_step)

    return Steps()
