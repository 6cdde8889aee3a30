"""From a job to a model that can be trained: loaded, its loss in place, the method upon it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.language.load import load_model, quiet, vocabulary
from tamis.trainer import isolation
from tamis.trainer.block_noise import BlockNoise
from tamis.trainer.diagnose import Diagnosis
from tamis.trainer.job import Job
from tamis.trainer.loss import terms_forward
from tamis.trainer.methods import Context
from tamis.trainer.objectives.noisefit import NoiseFit
from tamis.trainer.objectives.start import StartModel
from tamis.trainer.objectives.taid import Taid
from tamis.trainer.objectives.teacher import Teacher
from tamis.trainer.pack import padded


@dataclass(frozen=True, slots=True)
class Ready:
    """The causal language model with the loss as its forward, what of it is trained, how many
    parameters it came with, and what looks at it, is put upon it or teaches it."""

    lm: Any
    trained: Any
    size: int
    diagnosis: Diagnosis | None
    noise: BlockNoise | None
    teacher: Teacher | None


def prepared(job: Job) -> Ready:
    """Load the model and set it up. Draws by the run's seed."""
    from transformers import set_seed

    set_seed(job.seed % 2**32)
    # Trained in float32 whatever the checkpoint holds: small updates vanish in bfloat16.
    lm = load_model(job.model.model_copy(update={"dtype": "float32"}), job.device)
    lm.requires_grad_(False)
    size = sum(p.numel() for p in lm.parameters())
    isolation.check(lm, vocabulary(job.model), job.options.packing)
    asked, diagnosis = job.options.diagnose, None
    if asked is not None:
        diagnosis = Diagnosis(asked, lm, job.device, job.examples, job.heldout)
    start = _start_model(job, lm) if job.objective.frozen else None
    teacher, noise = None, None
    if job.teacher is not None and isinstance(job.objective, Taid):
        teacher = Teacher(job.teacher, job.objective, job.device, job.options.packing)
    if isinstance(job.objective, NoiseFit):
        noise = BlockNoise(lm, _context(job).batches, job.objective)
    forward = terms_forward(lm, vocabulary(job.model), start or teacher, noise)
    # Noise is not drawn again when activations are.
    if job.device == "cuda" and job.method.checkpointing and noise is None:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lm.forward = forward
    with quiet():
        trained = job.method.prepare(lm, _context(job))
    if start is not None:
        start.settle(trained)
    return Ready(lm, trained, size, diagnosis, noise, teacher)


def _context(job: Job) -> Context:
    total = len(job.groups)

    def batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
        first = np.concatenate(job.groups)[:rows]
        for begin in range(0, len(first), at_once):
            batch = padded(job.examples, first[begin : begin + at_once])
            names = ("input_ids", "labels", "loss_weights")
            yield {name: batch[name].to(job.device) for name in names}

    rate = job.options.learning_rate or job.method.learning_rate
    warmup = int(job.options.warmup * total)
    longest = int(job.examples.lengths.max())
    a_step, rows = job.options.rows_per_step, len(job.examples)

    def epoch(step: int) -> int:
        return step * a_step // rows

    return Context(total, warmup, rate, job.seed, job.device, batches, longest, epoch)


def _start_model(job: Job, lm: Any) -> StartModel:
    again = job.model.model_copy(update={"dtype": "float32" if job.device == "cpu" else "bfloat16"})
    return StartModel(lm, vocabulary(job.model), lambda: load_model(again, job.device))
