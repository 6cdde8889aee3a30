"""What a run of the trainer tells: facts, losses step by step, versions."""

from __future__ import annotations

import json
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any

from tamis.trainer import launch
from tamis.trainer.job import VERSION, Job

REPORT = "train_report.json"
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


def finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The report of this very run when it came to its end in `folder` before."""
    path = folder / REPORT
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report if report["identity"] == name else None


def facts(job: Job, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run was and did; called when it came to its end."""
    import torch

    lengths = job.examples.lengths
    cuda = job.device == "cuda"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "identity": job.identity,
        "version": VERSION,
        "method": job.options.method,
        "method_facts": job.method.facts(),
        "learning_rate": job.options.learning_rate or job.method.learning_rate,
        "optimizer": job.options.optimizer,
        "seed": job.seed,
        "processes": launch.processes(),
        "rows": len(job.examples),
        "dropped": job.examples.dropped,
        "truncated": job.examples.truncated,
        "split": job.examples.split,
        "max_length": job.limit,
        "steps": len(job.groups),
        "rows_seen": sum(map(len, job.groups)),
        "tokens_seen": int(sum(lengths[g].sum() for g in job.groups)),
        "trained_tokens_seen": sum(entry["tokens"] for entry in history),
        "first_nll": history[0]["nll"],
        "last_nll": history[-1]["nll"],
        "weightless_steps": sum(entry.get("weightless", False) for entry in history),
        "early": early(history),
        "history": history,
        "peak_memory_bytes": int(torch.cuda.max_memory_allocated() if cuda else used),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def early(history: list[dict[str, Any]]) -> dict[str, float]:
    """The first twentieth of the steps: how many, the mean loss of a token, the mean norm of the
    gradient where there is one.

    A low norm at a high loss went with better models in the end (arXiv 2412.13337); it is for runs
    side by side, and stops none.
    """
    first = history[: max(1, len(history) // 20)]
    tokens = sum(entry["tokens"] for entry in first)
    found = {
        "steps": len(first),
        "nll": sum(e["nll"] * e["tokens"] for e in first) / max(1, tokens),
    }
    norms = [entry["grad_norm"] for entry in first if "grad_norm" in entry]
    return {**found, "grad_norm": sum(norms) / len(norms)} if norms else found


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write the report; what has one is finished."""
    temporary = folder / f".{REPORT}.tmp"
    temporary.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / REPORT)
