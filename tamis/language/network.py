"""One forward pass of a causal language model, reduced to the tokens that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tamis.language.narrow import Narrow, narrow
from tamis.language.prefix import after, reads_on

# What one pass can give. Of each wanted token: its natural log-probability, the entropy in nats of
# the distribution it was drawn from, and EL2N = |softmax - onehot(token)|_2. Of the sequence: the
# mean of its last hidden states, and that of its last token, both after the final norm.
Part = Literal["logprob", "entropy", "el2n", "hidden_mean", "hidden_last"]
STATES: frozenset[Part] = frozenset({"hidden_mean", "hidden_last"})

# Logits held at once, in values: 16 MB of float32 stay near a CPU's cache, a GPU wants more work.
_CHUNK_VALUES = {"cpu": 2**22, "cuda": 2**27}
# How far head(backbone(x)) may lie from model(x) in a probe, relative to the largest logit. The
# same operations run on the same shapes, so an honest split agrees to the last bits in any dtype.
_PROBE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch on the device: `ids`, `mask` (b, t), right-padded; for each of the m tokens to
    predict, its row and column `row`, `before` (the position that predicts it) and its id
    `token`. All rows begin with the same `shared` tokens, which stand before every `before`."""

    ids: Any
    mask: Any
    row: Any
    before: Any
    token: Any
    shared: int = 0


class Network(Protocol):
    """A model that can say how probable given tokens are."""

    whole_logits: bool
    reads_on: bool  # from a cache of what all rows begin with

    def run(self, batch: Padded, parts: frozenset[Part]) -> dict[Part, Any]:
        """The log-probability and the other `parts`: float32 tensors (m,), states (b, d)."""
        ...


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SplitNetwork:
    """Backbone and head apart: logits exist only where a token is predicted, a chunk at a time."""

    backbone: Any
    head: Any
    vocabulary: int
    reads_on: bool = False
    last: Narrow | None = None  # the part of the backbone that need not read every token
    whole_logits = False

    def run(self, batch: Padded, parts: frozenset[Part]) -> dict[Part, Any]:
        """See `Network`. Memory beyond the backbone: a few chunks of logits."""
        places = batch.row, batch.before - batch.shared
        if self.last is None or batch.shared or parts & STATES:
            hidden = self.hidden(batch)
        else:
            with self.last.only(*places):
                hidden = self.hidden(batch)
        wanted = hidden[places]
        size = chunk(wanted, self.vocabulary)
        found = [
            token_parts(self.head(rows), tokens, parts)
            for rows, tokens in zip(wanted.split(size), batch.token.split(size), strict=True)
        ]
        return _joined(found) | _states(hidden, batch.mask, parts)

    def hidden(self, batch: Padded) -> Any:
        """The last hidden states (b, t, d), after the final norm; those behind what is shared."""
        if batch.shared:
            return after(self.backbone, batch.ids, batch.mask, batch.shared)
        return self.backbone(**inputs(batch)).last_hidden_state


@dataclass(frozen=True, slots=True, weakref_slot=True)
class WholeNetwork:
    """Models that hide their backbone or do more to logits than their head does: the logits of the
    whole batch are made (b x t x V), so batches must be smaller; values are the same."""

    model: Any
    whole_logits = True
    reads_on = False

    def run(self, batch: Padded, parts: frozenset[Part]) -> dict[Part, Any]:
        """See `Network`."""
        states = bool(parts & STATES)
        out = self.model(**inputs(batch), output_hidden_states=states)
        size = chunk(batch.token, out.logits.shape[-1])
        places = (of.split(size) for of in (batch.row, batch.before, batch.token))
        found = [
            token_parts(out.logits[row, before], tokens, parts)
            for row, before, tokens in zip(*places, strict=True)
        ]
        hidden = out.hidden_states[-1] if states else None
        return _joined(found) | _states(hidden, batch.mask, parts)


def network(model: Any, vocabulary: int) -> Network:
    """The cheapest way to ask `model` for log-probabilities.

    Splitting is tried on a short probe: some architectures scale or cap their logits behind the
    head, and then backbone and head alone would give other values. Those run whole.
    """
    import torch

    backbone, head = getattr(model, "base_model", None), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        return WholeNetwork(model)
    if not _agrees(model, backbone, head, vocabulary):
        return WholeNetwork(model)
    with torch.no_grad():
        ids = _probe_ids(model, vocabulary)
        last = narrow(backbone, ids)
        return SplitNetwork(backbone, head, vocabulary, reads_on(backbone, ids), last)


def token_parts(logits: Any, tokens: Any, parts: frozenset[Part]) -> dict[Part, Any]:
    """The log-probability, and the other `parts` a token has, of `tokens` (m,) by `logits` (m, V).

    Float32 whatever the logits are. EL2N takes 1 - p of the token as the sum of the others, so it
    is exact near 0 too.
    """
    import torch

    table = torch.log_softmax(logits.float(), dim=-1)
    place = tokens[:, None]
    logprob = table.gather(1, place)
    found: dict[Part, Any] = {"logprob": logprob[:, 0]}
    if not parts & {"entropy", "el2n"}:
        return found
    p = table.exp()
    if "entropy" in parts:
        # Where p is 0 its logarithm may be -inf, and the product counts as 0.
        found["entropy"] = -torch.linalg.vecdot(p, table.clamp_min_(-1e4))
    if "el2n" in parts:
        missed = p.scatter_(1, place, 0).sum(dim=1, keepdim=True)
        found["el2n"] = torch.linalg.vector_norm(p.scatter_(1, place, missed), dim=1)
    return found


def chunk(values: Any, vocabulary: int) -> int:
    """How many tokens may have their logits at once on the device of `values`."""
    return max(1, _CHUNK_VALUES.get(values.device.type, 2**22) // vocabulary)


def _joined(found: list[dict[Part, Any]]) -> dict[Part, Any]:
    import torch

    return {part: torch.cat([f[part] for f in found]) for part in found[0]}


def _states(hidden: Any, mask: Any, parts: frozenset[Part]) -> dict[Part, Any]:
    """The states of the sequences (b, d), padding left out."""
    found: dict[Part, Any] = {}
    if "hidden_mean" in parts:
        held = hidden.float() * mask[..., None]
        found["hidden_mean"] = held.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    if "hidden_last" in parts:
        last = mask.sum(dim=1, keepdim=True) - 1
        found["hidden_last"] = hidden.take_along_dim(last[..., None], dim=1)[:, 0].float()
    return found


def inputs(batch: Padded) -> dict[str, Any]:
    """The arguments of the model."""
    # Padding is on the right, so the positions a model counts by itself are those of the real
    # tokens; not every model would take them from outside.
    return {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}


def _probe_ids(model: Any, vocabulary: int) -> Any:
    import torch

    device = next(model.parameters()).device
    return torch.linspace(0, vocabulary - 1, 8, device=device).long()[None]


def _agrees(model: Any, backbone: Any, head: Any, vocabulary: int) -> bool:
    import torch

    # Not inference mode: what a model may keep from this must serve passes with gradients too.
    with torch.no_grad():
        ids = _probe_ids(model, vocabulary)
        probe = Padded(ids, torch.ones_like(ids), ids[0], ids[0], ids[0])
        whole = model(**inputs(probe)).logits.float()
        hidden = getattr(backbone(**inputs(probe)), "last_hidden_state", None)
        if hidden is None or hidden.shape[:2] != whole.shape[:2]:
            return False
        split = head(hidden).float()
        if split.shape != whole.shape:
            return False
        scale = whole.abs().max().clamp_min(1e-6)
        return bool(((split - whole).abs().max() / scale) < _PROBE_TOLERANCE)
