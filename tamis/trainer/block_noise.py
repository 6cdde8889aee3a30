"""Noise on the outputs of some transformer layers, of the size that NoiseFiT gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tamis.errors import RecipeError
from tamis.trainer.methods.base import Batches
from tamis.trainer.methods.parts import blocks
from tamis.trainer.objectives.noisefit import NoiseFit
from tamis.trainer.online.columns import still

# Rows on which layers are chosen.
ROWS = 8
_FALL, _MOST, _LEAST = 0.1, 5.0, 1e-6


class BlockNoise:
    """Noise upon the layers of `lm` whose ratio of signal to noise is highest, or lowest.

    They are chosen by the model as it is now: mean |h| over the mean size of the noise, on the
    first rows of the run. Only passes inside `drawn` are noisy. Each row, pass and layer has a
    generator of its own, so noise hangs neither on how rows are batched nor on what ran before.
    """

    def __init__(self, lm: Any, batches: Batches, asked: NoiseFit):
        self.std, self.temperature, self._lm = asked.std, asked.temperature, lm
        every = list(blocks(lm).values())
        if asked.layers > len(every):
            raise RecipeError(
                f"noisefit: layers={asked.layers}, but the model has {len(every)} of them"
            )
        ratios = self._ratios(every, batches)
        order = sorted(range(len(every)), key=lambda i: -ratios[i] if asked.highest else ratios[i])
        self.chosen = sorted(order[: asked.layers])
        self._now: tuple[Sequence[Any], Sequence[int], int] | None = None
        for at in self.chosen:
            every[at].register_forward_hook(self._adding(at))

    @contextmanager
    def drawn(self, spans: Any, seeds: Sequence[int], number: int) -> Iterator[None]:
        """Noise for one pass over the rows at `spans` (line, start, end), a seed each."""
        self._now = spans.tolist(), seeds, number
        try:
            yield
        finally:
            self._now = None

    @property
    def wanted(self) -> bool:
        """Whether the model is in training: evaluation is never noisy."""
        return bool(self._lm.training)

    def _ratios(self, every: list[Any], batches: Batches) -> list[float]:
        signal, noise = [0.0] * len(every), [0.0] * len(every)

        def look(at: int) -> Any:
            def hook(module: Any, given: Any, out: Any) -> None:
                states = _states(out)[0].float()
                signal[at] += float(states.abs().mean())
                noise[at] += float(size(states, self.std).mean())

            return hook

        hooks = [block.register_forward_hook(look(i)) for i, block in enumerate(every)]
        with still(self._lm):
            for batch in batches(ROWS, 1):
                self._lm(input_ids=batch["input_ids"], use_cache=False)
        for hook in hooks:
            hook.remove()
        return [s / max(n, _LEAST) for s, n in zip(signal, noise, strict=True)]

    def _adding(self, at: int) -> Any:
        import torch

        def hook(module: Any, given: Any, out: Any) -> Any:
            if self._now is None:
                return None
            spans, seeds, number = self._now
            states = _states(out)
            noise = torch.zeros_like(states)
            for (line, start, end), seed in zip(spans, seeds, strict=True):
                row = states[line, start:end].detach().float()
                rng = torch.Generator(row.device)
                rng.manual_seed((seed + 7919 * (2 * at + number + 1)) % 2**63)
                drawn = torch.randn(row.shape, generator=rng, device=row.device)
                noise[line, start:end] = (drawn * size(row, self.std)).to(noise.dtype)
            noisy = states + noise
            return (noisy, *out[1:]) if isinstance(out, tuple) else noisy

        return hook


def size(states: Any, std: float) -> Any:
    """The standard deviation of the noise on each value of a row's states (t, d)."""
    variance = states.var(dim=-1, keepdim=True)
    factor = (variance / (variance.mean() + _LEAST)).exp().clamp(max=_MOST)
    median = states.median(dim=-1, keepdim=True).values
    gap = (states - median).abs()
    mad = gap.median(dim=-1, keepdim=True).values
    mad = mad.clamp(min=_LEAST * states.norm(dim=-1, keepdim=True))
    return std * states.std() * mad * (-_FALL * gap / (mad + _LEAST)).exp() * factor


def _states(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out
