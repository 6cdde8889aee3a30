"""The mean loss of each row of a batch."""

from __future__ import annotations

from typing import Any


def row_losses(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Mean cross-entropy over the trained tokens of each row, and how many there are.

    `logits` (B, L, V), `labels` (B, L) unshifted, -100 where nothing is trained; float32 in,
    float32 sums. A row without a trained token has NaN and 0 tokens.
    """
    import torch

    target = labels[:, 1:]
    tokens = (target != -100).sum(dim=1)
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), target, ignore_index=-100, reduction="none"
    )
    return nll.sum(dim=1) / tokens, tokens
