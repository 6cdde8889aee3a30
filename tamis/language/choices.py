"""The probabilities of given tokens right after each of many prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis.language.forward import LOGPROB, Done, Engine, Pass, pad
from tamis.language.network import Padded
from tamis.numerics.device import resolve


def after(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    tokens: np.ndarray,
    *,
    done: Done | None = None,
) -> np.ndarray:
    """Natural log-probabilities of `tokens` (n, t) after the n prompts: float64 (n, t).

    Prompts hold at least one id. One forward of every prompt, t rows of logits for each; batches,
    memory and rounding as in `Engine.run`.
    """
    widths = np.array([len(p) for p in prompts], dtype=np.int64)
    none = np.zeros(0, dtype=np.int64)

    def compute(rows: np.ndarray) -> list[np.ndarray]:
        import torch

        device = resolve(engine.device)
        batch = pad([Pass(prompts[i], none) for i in rows], widths[rows], device)
        each = tokens.shape[1]
        places = (
            np.repeat(np.arange(len(rows)), each),
            np.repeat(widths[rows] - 1, each),
            tokens[rows].astype(np.int64).reshape(-1),
        )
        wanted = (torch.from_numpy(p).to(device) for p in places)
        with torch.inference_mode():
            found = engine.network.run(Padded(batch.ids, batch.mask, *wanted), LOGPROB)
            values = found["logprob"].cpu().numpy()
        return list(values.astype(np.float64).reshape(len(rows), each))

    found = engine.each(widths, compute, done=done)
    return np.array(found).reshape(len(prompts), tokens.shape[1])
