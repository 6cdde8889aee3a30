"""The loss: what each trained token costs, and the weighted mean over an optimizer step.

loss = sum_s w_s sum_t nll_t / sum_s w_s |T_s| over all rows s of the step, with T_s the tokens of
row s that carry loss. A common factor on all weights cancels; weights act between rows of one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tamis.language.network import SplitNetwork, network

IGNORED = -100
# Logits held at once, in values: 64 MB of float32 on a CPU, 1 GB on a GPU.
_CHUNK_VALUES = {"cpu": 2**24, "cuda": 2**28}
# What a model is given, of all that may come with a batch.
_INPUTS = ("input_ids", "inputs_embeds", "position_ids", "past_key_values")
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


def divergence_terms(logits: Any, frozen: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """`token_terms` of logits (m, V), and KL(frozen || logits) of each row over all V tokens."""
    import torch

    nll, correct = token_terms(logits, tokens)
    now = torch.log_softmax(logits.float(), dim=-1)
    return nll, correct, _divergence(torch.log_softmax(frozen.float(), dim=-1), now)


def taught_terms(logits: Any, taught: Any, tokens: Any, t: float) -> tuple[Any, Any, Any, Any]:
    """`token_terms` of logits (m, V), KL(p || logits) with p = softmax((1 - t) logits + t taught),
    through which no gradient goes, and the entropy of p.

    `taught` (m, V') may have fewer columns, whose p is 0, or more, which are left out.
    """
    import torch

    nll, correct = token_terms(logits, tokens)
    live = logits.float()
    known = min(live.shape[1], taught.shape[1])
    mixed = torch.lerp(live.detach()[:, :known], taught.float()[:, :known], t)
    wanted = torch.log_softmax(mixed, dim=-1)
    missing = live.shape[1] - known
    if missing:
        wanted = torch.nn.functional.pad(wanted, (0, missing), value=-torch.inf)
    kl = _divergence(wanted, torch.log_softmax(live, dim=-1))
    return nll, correct, kl, _entropy(wanted)


def noisy_terms(
    clean: Any, one: Any, two: Any, tokens: Any, temperature: float
) -> tuple[Any, Any, Any, Any]:
    """`token_terms` of logits without noise (m, V), how far those of two passes with noise lie from
    them at a temperature, and how far these lie from each other."""
    import torch

    nll, correct = token_terms(clean, tokens)
    wanted = torch.log_softmax(clean.float() / temperature, dim=-1)
    first, second = (torch.log_softmax(x.float(), dim=-1) for x in (one, two))
    soft = (_divergence(wanted, first) + _divergence(wanted, second)) / 2
    return nll, correct, soft, _divergence(second, first)


def _divergence(log_q: Any, log_p: Any) -> Any:
    """KL(q || p) of each row of two tensors (m, V) of log-probabilities."""
    import torch

    # Where a probability underflows to 0 its logarithm may be -inf, and the product counts as 0.
    gap = torch.where(log_q.isneginf(), 0.0, log_q - log_p)
    return torch.linalg.vecdot(log_q.exp(), gap)


def _entropy(log_p: Any) -> Any:
    """That of each row of log-probabilities (m, V), in nats."""
    import torch

    return -torch.linalg.vecdot(log_p.exp(), torch.where(log_p.isneginf(), 0.0, log_p))


def chunked(terms: Callable[..., tuple[Any, ...]], chunk: int, *rows: Any) -> tuple[Any, ...]:
    """`terms(*rows)`, tensors over the same m rows, with `chunk` of them at a time.

    In training a chunk is computed again for its gradient, so that what it makes is never held for
    more than one chunk.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    if len(rows[0]) <= chunk:
        return terms(*rows)
    again = torch.is_grad_enabled()
    parts = [
        checkpoint(terms, *part, use_reentrant=False) if again else terms(*part)
        for part in zip(*(r.split(chunk) for r in rows), strict=True)
    ]
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))


def head_terms(head: Callable[[Any], Any], hidden: Any, tokens: Any, chunk: int) -> tuple[Any, ...]:
    """`token_terms` of `head(hidden)`, hidden (m, d), with `chunk` rows of logits at a time."""
    return chunked(lambda rows, wanted: token_terms(head(rows), wanted), chunk, hidden, tokens)


@dataclass(frozen=True, slots=True)
class Rows:
    """A model as two functions: `states` from its inputs to what is kept of positions `row`,
    `before` (m, ...), and `head` from there to logits (m, V)."""

    states: Callable[[Mapping[str, Any], Any, Any], Any]
    head: Callable[[Any], Any]


def rows_of(model: Any, vocabulary: int) -> Rows:
    """Hidden states and the head where the two can be had apart, else logits as they are."""
    net, whole = network(model, vocabulary), model.forward

    def hidden(inputs: Mapping[str, Any], row: Any, before: Any) -> Any:
        return net.backbone(**inputs).last_hidden_state[row, before]

    def logits(inputs: Mapping[str, Any], row: Any, before: Any) -> Any:
        return whole(**inputs).logits[row, before]

    if isinstance(net, SplitNetwork):
        # Asked for anew each time: an adapter may wrap a head that shares the embeddings' weights.
        return Rows(hidden, lambda rows: model.get_output_embeddings()(rows))
    return Rows(logits, lambda rows: rows)


def terms_forward(
    model: Any, vocabulary: int, frozen: Frozen | None = None, noisy: Noisy | None = None
) -> Callable[..., dict[str, Any]]:
    """A function in the place of `model.forward` that returns the terms of the trained tokens.

    It takes `input_ids` and `labels` (b, t), and optionally `loss_weights` (b, t), `position_ids`;
    it returns `nll`, `correct`, `weights` (1 when not given) and `row`, each (m,), what a `frozen`
    model `gives` where there is one and the tokens have weights (rows that are looked at have none,
    and need no second model), `soft` and `consistency` where there is noise. The head sees only the
    positions that predict a trained token. Never uses a cache: with one, packed rows would
    see each other.

    Virtual tokens come as `inputs_embeds` and `labels` (b, p + t) that begin with them, or as keys
    and values of p tokens before the first, `past_key_values`; weights stay those of the t tokens.
    """
    live = rows_of(model, vocabulary)

    def forward(
        *,
        labels: Any,
        loss_weights: Any = None,
        **given: Any,  # peft passes every argument of a causal model, unset
    ) -> dict[str, Any]:
        row, before, tokens = targets(labels)
        inputs = {name: given[name] for name in _INPUTS if given.get(name) is not None}
        inputs["use_cache"] = False
        chunk = max(1, _CHUNK_VALUES[labels.device.type] // vocabulary)
        if noisy is not None and noisy.wanted:
            states = [live.states(inputs, row, before)]
            for number in (0, 1):
                with noisy.drawn(given["spans"], given["noise"], number):
                    states.append(live.states(inputs, row, before))
            names = ("nll", "correct", "soft", "consistency")
            parts = chunked(_under(live, noisy.temperature), chunk, *states, tokens)
            found = dict(zip(names, parts, strict=True))
        elif frozen is None or loss_weights is None:
            nll, correct = head_terms(live.head, live.states(inputs, row, before), tokens, chunk)
            found = {"nll": nll, "correct": correct}
        else:
            start = frozen.states(inputs, row, before)
            now = live.states(inputs, row, before)
            parts = chunked(_against(live, frozen), chunk, now, start, tokens)
            found = dict(zip(("nll", "correct", *frozen.gives), parts, strict=True))
        nll = found["nll"]
        if loss_weights is None:
            weights = nll.new_ones(len(nll))
        else:
            virtual = labels.shape[1] - loss_weights.shape[1]
            weights = loss_weights[row, before + 1 - virtual]
        return {**found, "weights": weights, "row": row}

    return forward


class Frozen(Protocol):
    """A model that is not trained, to compare with. `gives` names what it adds to the terms."""

    gives: tuple[str, ...]

    def states(self, inputs: Mapping[str, Any], row: Any, before: Any) -> Any:
        """States at the positions, without gradient and without dropout, as `Rows.states`."""
        ...

    def terms(self, logits: Any, rows: Any, tokens: Any) -> tuple[Any, ...]:
        """`token_terms` of logits (m, V), and what it `gives` by its own states `rows` there."""
        ...


class Noisy(Protocol):
    """Noise inside the model: see `block_noise`."""

    temperature: float

    @property
    def wanted(self) -> bool:
        """Whether passes with noise are to be made now."""
        ...

    def drawn(self, spans: Any, seeds: Any, number: int) -> AbstractContextManager[None]:
        """Noise for pass `number` over rows at `spans`, a seed each."""
        ...


def _under(live: Rows, temperature: float) -> Callable[..., tuple[Any, ...]]:
    def terms(clean: Any, one: Any, two: Any, tokens: Any) -> tuple[Any, ...]:
        return noisy_terms(live.head(clean), live.head(one), live.head(two), tokens, temperature)

    return terms


def _against(live: Rows, frozen: Frozen) -> Callable[..., tuple[Any, ...]]:
    def terms(now: Any, start: Any, tokens: Any) -> tuple[Any, ...]:
        return frozen.terms(live.head(now), start, tokens)

    return terms
