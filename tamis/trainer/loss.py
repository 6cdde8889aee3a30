"""The loss: what each trained token costs, and the weighted mean over an optimizer step.

loss = sum_s w_s sum_t nll_t / sum_s w_s |T_s| over all rows s of the step, with T_s the tokens of
row s that carry loss. A common factor on all weights cancels; weights act between rows of one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tamis.language.network import SplitNetwork, network

IGNORED = -100
# Logits held at once, in values: 64 MB of float32 on a CPU, 1 GB on a GPU.
_CHUNK_VALUES = {"cpu": 2**24, "cuda": 2**28}
# A step whose rows all have weight 0 has no mean; its loss is 0.
_LEAST = 1e-8


def targets(labels: Any) -> tuple[Any, Any, Any]:
    """The rows and columns (m,) of the positions that predict a trained token, and the tokens.

    `labels` is (b, t); position j predicts token j + 1.
    """
    after = labels[:, 1:]
    row, before = (after != IGNORED).nonzero(as_tuple=True)
    return row, before, after[row, before]


def denominator(batch: Mapping[str, Any]) -> Any:
    """The weighted number of trained tokens of a batch: what its loss sum is to be divided by."""
    return (batch["loss_weights"][:, 1:] * (batch["labels"][:, 1:] != IGNORED)).sum()


def weighted_mean(nll: Any, weights: Any, total: Any) -> Any:
    """sum(weights * nll) / total, for one batch of a step whose denominators sum to `total`."""
    return (nll * weights).sum() / total.clamp(min=_LEAST)


def token_terms(logits: Any, tokens: Any) -> tuple[Any, Any]:
    """Of logits (m, V): -log p(token) in float32, and whether the token is the most probable."""
    from torch.nn.functional import cross_entropy

    nll = cross_entropy(logits.float(), tokens, reduction="none")
    return nll, logits.detach().argmax(dim=-1) == tokens


def head_terms(head: Callable[[Any], Any], hidden: Any, tokens: Any, chunk: int) -> tuple[Any, Any]:
    """`token_terms` of `head(hidden)`, hidden (m, d), with `chunk` rows of logits at a time.

    In training the logits of a chunk are made again for its gradient, so that never more than one
    chunk of them is held.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def terms(rows: Any, wanted: Any) -> tuple[Any, Any]:
        return token_terms(head(rows), wanted)

    if len(tokens) <= chunk:
        return terms(hidden, tokens)
    again = torch.is_grad_enabled()
    parts = [
        checkpoint(terms, r, w, use_reentrant=False) if again else terms(r, w)
        for r, w in zip(hidden.split(chunk), tokens.split(chunk), strict=True)
    ]
    return torch.cat([nll for nll, _ in parts]), torch.cat([correct for _, correct in parts])


def terms_forward(model: Any, vocabulary: int) -> Callable[..., dict[str, Any]]:
    """A function in the place of `model.forward` that returns the terms of the trained tokens.

    It takes `input_ids` and `labels` (b, t), and optionally `loss_weights` (b, t), `position_ids`;
    it returns `nll`, `correct`, `weights` (1 when not given) and `row`, each (m,). The head sees
    only the positions that predict a trained token. Never uses a cache: with one, packed rows would
    see each other.
    """
    net = network(model, vocabulary)
    whole = model.forward

    def forward(
        *,
        input_ids: Any,
        labels: Any,
        loss_weights: Any = None,
        position_ids: Any = None,
        **_: Any,  # peft passes every argument of a causal model, unset
    ) -> dict[str, Any]:
        row, before, tokens = targets(labels)
        inputs = {"input_ids": input_ids, "use_cache": False}
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        if isinstance(net, SplitNetwork):
            hidden = net.backbone(**inputs).last_hidden_state[row, before]
            chunk = max(1, _CHUNK_VALUES[hidden.device.type] // vocabulary)
            nll, correct = head_terms(net.head, hidden, tokens, chunk)
        else:
            nll, correct = token_terms(whole(**inputs).logits[row, before], tokens)
        weights = nll.new_ones(len(nll)) if loss_weights is None else loss_weights[row, before + 1]
        return {"nll": nll, "correct": correct, "weights": weights, "row": row}

    return forward
