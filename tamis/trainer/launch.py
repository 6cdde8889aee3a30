"""Several processes that train one model together: which one this is, and the files to start them.

They are started by `accelerate launch` (or torchrun), one a device. The first of them writes what
is written; the others compute and wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from tamis.errors import RecipeError

KINDS = ("ddp", "fsdp2", "zero2", "zero3")
# How long a process waits for the others: the first may have a model to save meanwhile.
_PATIENCE = timedelta(hours=2)


def processes() -> int:
    """How many processes train together; 1 when this one was not started beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the other processes for the length of a block; nothing for a process alone, nor when it
    has joined already. On cuda each process takes the device of its number on its machine."""
    import torch

    if processes() == 1 or torch.distributed.is_initialized():
        yield
        return
    from accelerate import PartialState

    cpu = device == "cpu"
    # The name is gloo even where torch knows mpi, which is not what the processes were started by.
    PartialState(cpu=cpu, backend="gloo" if cpu else "nccl", timeout=_PATIENCE)
    try:
        yield
        wait()  # gloo aborts a process whose group is left while others use it
    finally:
        PartialState().destroy_process_group()
        _forget()


def silent(line: str) -> None:
    """Tell nothing: what the processes behind the first have to say."""


@contextmanager
def unseen(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that nobody sees."""
    yield lambda rows: None


def wait() -> None:
    """Wait until every process has come here."""
    import torch

    if processes() > 1:
        torch.distributed.barrier()


@contextmanager
def first() -> Iterator[None]:
    """Let the first process go through a block alone, then all others."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def agreed(value: int, device: str) -> int:
    """What the first process gives, in every process."""
    import torch

    if processes() == 1:
        return value
    told = torch.tensor([value], device=device)
    torch.distributed.broadcast(told, src=0)
    return int(told)


def summed(values: Any) -> Any:
    """The sum of a tensor over all processes."""
    import torch

    if processes() > 1:
        torch.distributed.all_reduce(values)
    return values


def configuration(kind: str, processes: int) -> dict[str, Any]:
    """A configuration for `accelerate launch --config_file`.

    Precision, clipping and accumulation are the trainer's own, so none stands here. ddp is run in
    the tests, on CPUs; the fields of the others are checked by accelerate's own reader, and no run
    of them was made.
    """
    if kind not in KINDS:
        raise RecipeError(f"launch configuration {kind!r}: expected one of {', '.join(KINDS)}")
    if processes < 2:
        raise RecipeError(f"{processes} process needs no launch configuration: expected 2 or more")
    types = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": types.get(kind, "DEEPSPEED"),
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": processes,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
        **_OWN.get(kind, {}),
    }


def _zero(stage: int) -> dict[str, Any]:
    return {
        "deepspeed_config": {
            "zero_stage": stage,
            "zero3_init_flag": False,  # the weights are loaded and wrapped before they are cut
            "zero3_save_16bit_model": stage == 3,
            "gradient_accumulation_steps": 1,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
        }
    }


_OWN: dict[str, dict[str, Any]] = {
    "fsdp2": {
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": True,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "FULL_STATE_DICT",  # a checkpoint holds whole tensors
            "fsdp_cpu_ram_efficient_loading": False,  # every process loads what it starts from
            "fsdp_offload_params": False,
            "fsdp_activation_checkpointing": False,  # the trainer switches it on
        }
    },
    "zero2": _zero(2),
    "zero3": _zero(3),
}


def _forget() -> None:
    """Let accelerate forget the group, so that it can be joined again."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()
