"""Language-model scoring on a GPU: its share of the rate of one large bf16 matrix product.

    python -m benchmarks.scoring_rate [--device auto] [--size billion] [--rows 512] [--rounds 3]
        [--out FILE]

A Llama of random weights in bf16 gives the log-probabilities of the last third of rows of 128 to
1,024 tokens. Counted are 2 operations for each weight that a real token meets, the head only where
a token is predicted: nothing for attention and for padding. The rate of the matrix product, 8,192
wide, is measured in the same run. At least 0.4 is aimed at. Without a GPU nothing is measured
unless a `--device cpu` asks for it, and then nothing is aimed at. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks._record import record, surroundings, timed
from benchmarks._tuning import SIZES, random_model
from tamis.language.forward import Engine, Pass
from tamis.numerics.device import resolve

WIDE = {"cuda": 8192, "cpu": 1024}
AIM = 0.4


def main() -> None:
    """Measure and print, or say that there is nothing to measure on."""
    options = arguments()
    device = resolve(options.device)
    if device == "cpu" and options.device != "cpu":
        print("scoring_rate: not run, there is no CUDA device")
        return
    result: dict[str, Any] = {
        "benchmark": "scoring_rate",
        **surroundings(device),
        "model": f"Llama of random weights, {options.size}",
        "rows": options.rows,
    }
    passes = sequences(options.rows, SIZES[options.size][-1])
    with TemporaryDirectory() as folder:
        model = random_model(options.size, Path(folder)).model_copy(update={"dtype": "bfloat16"})
        engine = Engine(model, device)
        engine.logprobs(passes[:32])  # loads the model, and warms up
        body, head = weights(engine)
        work = 2.0 * body * sum(p.width for p in passes)
        work += 2.0 * head * sum(len(p.targets) for p in passes)
        seconds, products = [], []
        for _ in range(options.rounds):
            products.append(product(device))
            seconds.append(timed(lambda: engine.logprobs(passes), device)[1])
    ours, floor = work / statistics.median(seconds), statistics.median(products)
    result |= {
        "parameters": int(body + head),
        "tokens_a_second": round(sum(p.width for p in passes) / statistics.median(seconds)),
        "scoring_teraflops": round(ours / 1e12, 4),
        "matmul_teraflops": round(floor / 1e12, 4),
        "share": round(ours / floor, 3),
    }
    line = {
        "what": f"scoring rate, {options.size}, bf16, {result['device']}",
        "ours": ours / 1e12,
        "against": "one bf16 matrix product",
        "rival": floor / 1e12,
        "unit": "TFLOP/s",
        "ratio": result["share"],
        "aim": f">= {AIM}" if device == "cuda" else "none",
        "met": device == "cpu" or ours / floor >= AIM,
    }
    record({**result, "lines": [line]}, options.out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=SIZES, default="billion")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser.parse_args()


def sequences(count: int, vocabulary: int) -> list[Pass]:
    """Random ids, the last third of each row to be predicted."""
    rng = np.random.default_rng(0)
    return [
        Pass(rng.integers(2, vocabulary, n).tolist(), np.arange(n - n // 3, n))
        for n in rng.integers(128, 1025, count)
    ]


def weights(engine: Engine) -> tuple[int, int]:
    """How many weights a token meets in the body, and in the head."""
    network: Any = engine.network
    inside = sum(p.numel() for n, p in network.backbone.named_parameters() if p.ndim == 2)
    return (
        inside - network.backbone.get_input_embeddings().weight.numel(),
        network.head.weight.numel(),
    )


def product(device: str) -> float:
    """Operations a second of a matrix product in bf16: the best of ten."""
    n = WIDE[device]
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2.0 * n**3 / min(timed(lambda: a @ b, device)[1] for _ in range(10))


if __name__ == "__main__":
    main()
