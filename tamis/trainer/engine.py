"""The engine: a `transformers.Trainer` whose steps are whole groups of rows with exact weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import TamisError
from tamis.recipe import Tune
from tamis.trainer import methods
from tamis.trainer.data import Examples
from tamis.trainer.loss import denominator, weighted_mean
from tamis.trainer.pack import micro_batches

Told = Callable[[int], None]


@cache
def trainer_class() -> type:
    """The subclass of `transformers.Trainer`; a function, so that importing this stays cheap."""
    import torch
    from transformers import Trainer

    class StepTrainer(Trainer):
        """Trains on items that are whole optimizer steps, each a list of micro-batches.

        The loss of every micro-batch is divided by the weighted number of trained tokens of the
        whole step over all ranks, so how a step is cut into micro-batches does not matter.
        """

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.model_accepts_loss_kwargs = True
            self.loss_is_scaled_for_ga = True
            self._nll, self._tokens = 0.0, 0

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            if not batch_samples:
                return None
            batches = [batch for step in batch_samples for batch in step["micro"]]
            total = sum(denominator(batch) for batch in batches).to(device)
            if self.args.world_size > 1:
                total = self.accelerator.gather(total).sum()
            return total

        def training_step(
            self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
        ) -> Any:
            *first, last = inputs["micro"]
            loss = torch.zeros((), device=self.args.device)
            for batch in first:
                # Gradients travel between ranks once a step, whatever the number of batches there.
                with self.accelerator.no_sync(model):
                    loss += super().training_step(model, batch, num_items_in_batch)
            return loss + super().training_step(model, last, num_items_in_batch)

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            terms = model(**inputs)
            loss = weighted_mean(terms["nll"], terms["weights"], num_items_in_batch)
            self._nll += float(terms["nll"].detach().sum())
            self._tokens += len(terms["nll"])
            loss = loss * self.accelerator.num_processes  # ranks are averaged, and sums are wanted
            return (loss, terms) if return_outputs else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                if not math.isfinite(logs["loss"]):
                    raise TamisError(
                        f"the training diverged: the loss of step {self.state.global_step} is "
                        f"{logs['loss']}; lower tune.learning_rate"
                    )
                # Weighted losses of different runs do not compare; this one does.
                logs = {**logs, "nll": self._nll / max(self._tokens, 1), "tokens": self._tokens}
                self._nll, self._tokens = 0.0, 0
            super().log(logs, *args, **kwargs)

        def floating_point_ops(self, inputs: dict[str, Any]) -> int:
            return 0  # nobody asks, and the parent expects inputs of another shape

    return StepTrainer


class Steps:
    """The rows of every optimizer step as a dataset: item i is made into batches when it is due."""

    def __init__(
        self, examples: Examples, groups: Sequence[np.ndarray], options: Tune, device: str
    ):
        self.examples, self.groups, self.options, self.device = examples, groups, options, device

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, step: int) -> dict[str, Any]:
        micro = micro_batches(
            self.examples,
            self.groups[step],
            packing=self.options.packing != "none",
            tokens=self.options.batch_tokens,
            device=self.device,
        )
        return {"micro": micro}


def build(
    model: Any,
    dataset: Steps,
    options: Tune,
    *,
    seed: int,
    device: str,
    folder: Path,
    callbacks: Sequence[Any] = (),
    optimizer: str = "adamw_torch_fused",
) -> Any:
    """The trainer of a model whose forward is `loss.terms_forward`; checkpoints go to `folder`.

    Prints nothing and reports nowhere. float32 on a CPU, bfloat16 autocast over float32 weights on
    a GPU.
    """
    from transformers import TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=len(dataset),
        learning_rate=methods.learning_rate(options),
        lr_scheduler_type=_scheduler(options),
        warmup_steps=int(options.warmup * len(dataset)),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim=optimizer,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        seed=seed % 2**32,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        dataloader_pin_memory=device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=options.save_every or max(1, math.ceil(len(dataset) / 10)),
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        raise TamisError(
            f"{arguments.n_gpu} GPUs are visible to one process: set CUDA_VISIBLE_DEVICES to one, "
            "or start one process a GPU with accelerate launch"
        )
    trainer = trainer_class()(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=_only,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The collator: a step is one item, and it is in batches already."""
    (step,) = items
    return step


def _scheduler(options: Tune) -> str:
    if options.scheduler == "constant" and options.warmup > 0:
        return "constant_with_warmup"
    return options.scheduler
