"""The engine: a `transformers.Trainer` whose steps are whole groups of rows with exact weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import TamisError
from tamis.recipe import Tune
from tamis.trainer import launch, optimizers
from tamis.trainer.data import Examples
from tamis.trainer.hooks import MethodHooks
from tamis.trainer.hooks import callback as method_callback
from tamis.trainer.methods import Method
from tamis.trainer.mixins import StepLog, StepLoss
from tamis.trainer.noise import Noise
from tamis.trainer.objectives import Course
from tamis.trainer.objectives import build as objective_of
from tamis.trainer.objectives.teacher import TaughtSteps, Teacher
from tamis.trainer.online import OnlineSteps, Picking
from tamis.trainer.pack import micro_batches


@cache
def trainer_class() -> type:
    """The subclass of `transformers.Trainer`; a function, so that importing this stays cheap."""
    from transformers import Trainer

    class StepTrainer(OnlineSteps, StepLog, MethodHooks, TaughtSteps, StepLoss, Trainer):
        """See `online.hook`, `mixins`, `hooks` and `objectives.teacher`."""

    return StepTrainer


class Steps:
    """The rows of every optimizer step as a dataset, made into batches when they are due.

    Among n processes, item i is the share of process i % n in step i // n: the way accelerate
    deals items out gives each process its own. With an `online` rule an item is the rows of the
    whole step, and its batches are made when the rule has picked among them.
    """

    def __init__(
        self,
        examples: Examples,
        groups: Sequence[np.ndarray],
        options: Tune,
        device: str,
        course: Course | None = None,
    ):
        self.examples, self.groups, self.options, self.device = examples, groups, options, device
        self.course = course or Course(seed=0, steps=len(groups))
        self.objective = objective_of(options.objective.method, options.objective.options)

    def __len__(self) -> int:
        return len(self.groups) * launch.processes()

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, launch.processes())
        if self.options.online is not None:
            return {"step": step, "rows": self.groups[step], "part": part}
        return {"micro": self.batches(step, self.groups[step], part)}

    def batches(
        self, step: int, rows: np.ndarray, part: int, weight: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """The batches of one process for a step that trains on these rows, and on no other; what
        their tokens weigh may be given."""
        shown = self.objective.rows(self.examples.take(rows), step, self.course)
        if weight is not None:
            shown = dataclasses.replace(shown, weight=weight)
        micro = micro_batches(
            shown,
            np.arange(len(shown)),
            packing=self.options.packing,
            tokens=self.options.batch_tokens,
            device=self.device,
            max_length=self.options.max_length,
            part=(part, launch.processes()),
        )
        optimizers.check_step(self.options, step, len(micro))
        noisy = self.options.noise > 0 or self.objective.noisy
        for batch in micro if noisy else ():
            names = [shown.row_id[i] for i in batch["rows"].tolist()]
            batch["noise"] = [self.course.key("noise", step, name) for name in names]
        return micro


def build(
    model: Any,
    dataset: Steps,
    options: Tune,
    *,
    method: Method,
    seed: int,
    device: str,
    folder: Path,
    callbacks: Sequence[Any] = (),
    picking: Picking | None = None,
    teacher: Teacher | None = None,
) -> Any:
    """The trainer of a model whose forward is `loss.terms_forward`; checkpoints go to `folder`.

    Prints nothing and reports nowhere. float32 on a CPU, bfloat16 autocast over float32 weights on
    a GPU, unless `options.precision` says which.
    """
    from transformers import TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=len(dataset.groups),
        learning_rate=options.learning_rate or method.learning_rate,
        lr_scheduler_type=_scheduler(options),
        warmup_steps=int(options.warmup * len(dataset.groups)),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        **optimizers.arguments(options),
        # What is asked for the difference of two losses, bfloat16 would round away.
        bf16=_halved(options, device) and not method.steps_itself,
        ddp_find_unused_parameters=True if method.rests else None,
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
        save_steps=options.save_every or max(1, math.ceil(len(dataset.groups) / 10)),
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
        callbacks=[method_callback(method), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.method, trainer.picking, trainer.teacher = method, picking, teacher
    trainer.objective, trainer.noise = dataset.objective, Noise(options.noise).upon(model)
    return trainer


def _halved(options: Tune, device: str) -> bool:
    """Whether matrices are multiplied in bfloat16."""
    return options.precision == "bfloat16" or (options.precision == "auto" and device == "cuda")


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The collator: a step is one item, and it is in batches already."""
    (step,) = items
    return step


def _scheduler(options: Tune) -> str:
    if options.scheduler == "constant" and options.warmup > 0:
        return "constant_with_warmup"
    return options.scheduler
