"""UDS utility: the nuclear norm from hidden states against the singular values of the logits.

    python -m benchmarks.uds_utility [--device auto] [--rows 8] [--positions N] [--vocabulary V]
        [--width H] [--rounds 5] [--out FILE]

On a GPU the sizes are those of a model of 7e9 parameters (N 512, V 152,000, h 3,584), on a CPU
N 128, V 32,000, h 512. The rival is `torch.linalg.svdvals` of each row's logits in float32, which
are made beforehand and not counted; both must agree to 1e-4. They take turns. Told beside: the same
on the transposed logits, which some drivers prefer; the factor of the head, which a run makes once;
and the whole score (utility, projection, distances to a full queue). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import record, surroundings, timed, times
from tamis.numerics.device import resolve
from tamis.selectors.online import build
from tamis.selectors.online.nuclear import factor, nuclear_norm

# Positions, vocabulary and width.
SIZES = {"cpu": (128, 32_000, 512), "cuda": (512, 152_000, 3_584)}
QUEUE = 1024


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = resolve(options.device)
    sizes = [given or size for given, size in zip(
        (options.positions, options.vocabulary, options.width), SIZES[device], strict=True
    )]  # fmt: skip
    result: dict[str, Any] = {
        "benchmark": "uds_utility",
        **surroundings(device),
        "rounds": options.rounds,
        **dict(
            zip(("rows", "positions", "vocabulary", "width"), (options.rows, *sizes), strict=True)
        ),
    }
    result |= compare(options.rows, *sizes, device, options.rounds)
    what = "UDS utility, B={rows}, N={positions}, V={vocabulary:,}, h={width:,}".format(**result)
    lines = [
        times(f"{what}, {device}", result["seconds"], "svdvals of the logits",
              result["svdvals_seconds"], at_least=8),
    ]  # fmt: skip
    record({**result, "lines": lines}, options.out)
    if result["largest_difference"] > 1e-4:
        sys.exit("the utilities differ by more than 1e-4")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--positions", type=int)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def compare(
    rows: int, positions: int, vocabulary: int, width: int, device: str, rounds: int
) -> dict[str, Any]:
    """Median seconds of both ways and of what surrounds ours, the largest relative difference."""
    torch.backends.cuda.matmul.allow_tf32 = False
    made = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, positions, width, device=device, generator=made)
    head = torch.randn(vocabulary, width, device=device, generator=made) / width**0.5
    logits = [row @ head.T for row in hidden]
    tall = [x.mT.contiguous() for x in logits]
    root, factor_seconds = timed(lambda: factor(head), device)
    uds = build("uds", {"rows": "all", "queue": QUEUE, "max_length": positions})
    uds.start(0, head=head)  # type: ignore[call-arg]
    points = torch.randn(QUEUE, uds.vocab_dim * uds.time_dim, device=device, generator=made)
    uds.commit({"z": points}, torch.arange(QUEUE).numpy())
    ways: dict[str, Callable[[], Any]] = {
        "svdvals_seconds": lambda: torch.stack([torch.linalg.svdvals(x).sum() for x in logits]),
        "svdvals_transposed_seconds": lambda: [torch.linalg.svdvals(x) for x in tall],
        "seconds": lambda: nuclear_norm(hidden.double() @ root),
        "score_seconds": lambda: uds.score({"hidden": hidden}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds + 1):  # the first round warms up
        for name, way in ways.items():
            found[name], spent = timed(way, device)
            seconds[name].append(spent)
    expected, ours = found["svdvals_seconds"].double(), found["seconds"]
    return {
        **{name: round(statistics.median(all_[1:]), 6) for name, all_ in seconds.items()},
        "factor_seconds": round(factor_seconds, 3),
        "largest_difference": float(((ours - expected).abs() / expected).max()),
    }


if __name__ == "__main__":
    main()
