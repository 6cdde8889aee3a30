"""Where shards are scored: here, in processes of this machine, or on a Ray cluster.

All run the same function on the same shards, and each shard is stored by whoever scored it. So ids
and values are the same under each, and a worker that dies loses the shard in hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

from tamis.errors import require
from tamis.language import tally
from tamis.pipelines import workers
from tamis.pipelines.shards import Job, Shard
from tamis.recipe import Engine
from tamis.scoring.base import Advance

# How many values a shard gave, and what the user must know of them; from another process also what
# its models read.
Scored = tuple[int, list[str]]
Sent = tuple[int, list[str], tally.Tally]


def run(engine: Engine, job: Job, shards: Sequence[Shard], advance: Advance) -> Scored:
    """Score the shards; returns how many values were stored, and the warnings."""
    if engine.name == "ray":
        return _summed(_ray(engine, job, shards), advance)
    if engine.count > 1:
        return _summed(_processes(engine, job, shards), advance)
    computed = sum(job.run(shard, advance) for shard in shards)
    return computed, job.group.warnings if computed else []


def _summed(found: Iterator[tuple[int, Sent]], advance: Advance) -> Scored:
    computed, warnings = 0, {}
    for rows, (values, said, read) in found:
        advance(rows)
        tally.note(read.passes, read.tokens, read.written)
        computed += values
        # Of several workers the same sentence with other figures: one is enough.
        warnings |= {line.split(":")[0]: line for line in said}
    return computed, list(warnings.values())


def _processes(engine: Engine, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Sent]]:
    """Processes of this machine; each loads the models once."""
    numbers = get_context("spawn").Queue()
    for number in range(engine.count):
        numbers.put(number)
    pool = workers.processes(engine.count, _begin, (job, numbers, engine.gpus > 0))
    for shard, made in workers.each(
        pool, _scored, shards, called="a scoring process", fewer="workers"
    ):
        yield len(shard.rows), made


_job: Job


def _begin(job: Job, numbers: Any, gpus: bool) -> None:
    """What a process does first: take a GPU, and remember what it is to score."""
    global _job
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(numbers.get())
    _job = job


def _scored(shard: Shard) -> Sent:
    with tally.counted() as read:
        computed = _job.run(shard, lambda rows: None)
    return computed, list(_job.group.warnings), read


def _ray(engine: Engine, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Sent]]:
    """Actors of a Ray cluster: the one that `RAY_ADDRESS` names, else one of this machine.

    An actor that dies is started again and its shard with it. Rows come back in any order.
    """
    require("ray", "ray", "the engine ray")
    import ray

    if not ray.is_initialized():
        ray.init(
            num_cpus=None if "RAY_ADDRESS" in os.environ else engine.count, log_to_driver=False
        )
    given = ray.put(job)
    # A block a shard: what one actor takes is what its death costs.
    numbers = [{"shard": number} for number in range(len(shards))]
    work = ray.data.from_items(numbers, override_num_blocks=len(shards))
    listed = ray.put(list(shards))
    scored = work.map_batches(
        _Actor,
        batch_size=1,
        fn_constructor_args=(given, listed),
        compute=ray.data.ActorPoolStrategy(size=engine.count),
        num_gpus=1 if engine.gpus else 0,
    )
    for row in scored.iter_rows():
        said = [w for w in row["warnings"].split("\n") if w]
        read = tally.Tally(int(row["passes"]), int(row["tokens"]), int(row["written"]))
        yield int(row["rows"]), (int(row["computed"]), said, read)


class _Actor:
    """Scores shards by their numbers, for Ray."""

    def __init__(self, job: Any, shards: Any) -> None:
        import ray

        self._job, self._shards = ray.get(job), ray.get(shards)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for number in batch["shard"]:
            shard = self._shards[int(number)]
            with tally.counted() as read:
                computed = self._job.run(shard, lambda n: None)
            told = {
                "rows": len(shard.rows),
                "computed": computed,
                "warnings": "\n".join(self._job.group.warnings),
                **asdict(read),
            }
            for name, value in told.items():
                found.setdefault(name, []).append(value)
        return found
