"""One forward pass of a causal language model, reduced to the tokens that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

# Logits held at once, in values: 16 MB of float32 stay near a CPU's cache, a GPU wants more work.
_CHUNK_VALUES = {"cpu": 2**22, "cuda": 2**27}
# How far head(backbone(x)) may lie from model(x) in a probe, relative to the largest logit. The
# same operations run on the same shapes, so an honest split agrees to the last bits in any dtype.
_PROBE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch on the device: `ids`, `mask` (b, t), right-padded; for each of the m tokens to
    predict, its row and column `row`, `before` (the position that predicts it) and its id
    `token`."""

    ids: Any
    mask: Any
    row: Any
    before: Any
    token: Any


class Network(Protocol):
    """A model that can say how probable given tokens are."""

    whole_logits: bool

    def logprobs(self, batch: Padded) -> Any:
        """Natural log-probability of each wanted token: a float32 tensor (m,)."""
        ...


@dataclass(frozen=True, slots=True)
class SplitNetwork:
    """Backbone and head apart: logits exist only where a token is predicted, a chunk at a time."""

    backbone: Any
    head: Any
    vocabulary: int
    whole_logits = False

    def logprobs(self, batch: Padded) -> Any:
        """See `Network`. Memory beyond the backbone: one chunk of logits."""
        import torch

        hidden = self.backbone(**_inputs(batch)).last_hidden_state
        wanted = hidden[batch.row, batch.before]
        size = max(1, _CHUNK_VALUES.get(wanted.device.type, 2**22) // self.vocabulary)
        parts = [
            token_logprobs(self.head(rows), tokens)
            for rows, tokens in zip(wanted.split(size), batch.token.split(size), strict=True)
        ]
        return torch.cat(parts) if parts else wanted.new_zeros(0, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class WholeNetwork:
    """Models that hide their backbone or do more to logits than their head does: the logits of the
    whole batch are made (b x t x V), so batches must be smaller; values are the same."""

    model: Any
    whole_logits = True

    def logprobs(self, batch: Padded) -> Any:
        """See `Network`."""
        logits = self.model(**_inputs(batch)).logits
        return token_logprobs(logits[batch.row, batch.before], batch.token)


def network(model: Any, vocabulary: int) -> Network:
    """The cheapest way to ask `model` for log-probabilities.

    Splitting is tried on a short probe: some architectures scale or cap their logits behind the
    head, and then backbone and head alone would give other values. Those run whole.
    """
    backbone, head = getattr(model, "base_model", None), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        return WholeNetwork(model)
    if _agrees(model, backbone, head, vocabulary):
        return SplitNetwork(backbone, head, vocabulary)
    return WholeNetwork(model)


def token_logprobs(logits: Any, tokens: Any) -> Any:
    """Log-softmax in float32 of `logits` (m, V) at `tokens` (m,)."""
    from torch.nn.functional import cross_entropy

    return -cross_entropy(logits.float(), tokens, reduction="none")


def _inputs(batch: Padded) -> dict[str, Any]:
    # Padding is on the right, so the positions a model counts by itself are those of the real
    # tokens; not every model would take them from outside.
    return {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}


def _agrees(model: Any, backbone: Any, head: Any, vocabulary: int) -> bool:
    import torch

    with torch.inference_mode():
        device = next(model.parameters()).device
        ids = torch.linspace(0, vocabulary - 1, 8, device=device).long()[None]
        probe = Padded(ids, torch.ones_like(ids), ids[0], ids[0], ids[0])
        whole = model(**_inputs(probe)).logits.float()
        hidden = getattr(backbone(**_inputs(probe)), "last_hidden_state", None)
        if hidden is None or hidden.shape[:2] != whole.shape[:2]:
            return False
        split = head(hidden).float()
        if split.shape != whole.shape:
            return False
        scale = whole.abs().max().clamp_min(1e-6)
        return bool(((split - whole).abs().max() / scale) < _PROBE_TOLERANCE)
