"""Texts that a tuned model likes much more than the model it was tuned from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.language.forward import Engine
from tamis.language.load import load_model
from tamis.language.network import Network, SplitNetwork, network
from tamis.language.next_token import steps
from tamis.numerics.contrast import contrast, log_softmax
from tamis.numerics.device import resolve

# The adapter that the base learns with what it was shown, so that it is not new a second time.
_RANK = 8


@dataclass(frozen=True, slots=True)
class Drawn:
    """A text: its ids behind the start, without the token that ended it, and the mean natural
    log-probability of its tokens under both models."""

    ids: list[int]
    tuned: float
    base: float

    @property
    def score(self) -> float:
        """How much more the tuned model likes it, in nats a token."""
        return self.tuned - self.base


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tokens may come next, and how they are drawn.

    Tokens with less than `alpha` of the tuned model's best are out; the others are drawn from
    softmax(log p_tuned - gamma log p_base). A text has at least `least` and at most `most` tokens.
    """

    alpha: float = 0.1
    gamma: float = 1.0
    least: int = 32
    most: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"alpha is {self.alpha:g}: expected a share from 0 to 1")
        if not 0 <= self.least <= self.most or self.most < 1:
            raise RecipeError(
                f"at least {self.least} and at most {self.most} tokens: the second must be at "
                "least 1 and not below the first"
            )


class Contrast:
    """Two models of one vocabulary, and texts drawn from what lies between them.

    With `learning_rate` 0 the base stays as it is. Above 0, `learn` trains an adapter (LoRA, rank
    8, AdamW) on the base, which is then loaded apart from other uses of the same model.

    Source: Isonuma and Titov, "What's New in My Data?", 2024 (arXiv 2410.14765). Differs from their
    code: plain sampling instead of four beams (theirs reorders the cache of one model only); the
    base learns by an adapter; a text may end.
    """

    def __init__(self, tuned: Engine, base: Engine, *, learning_rate: float, seed: int) -> None:
        """Raises `RecipeError` when the models do not share a vocabulary."""
        same = tuned.tokenizer.get_vocab() == base.tokenizer.get_vocab()
        if tuned.vocabulary != base.vocabulary or not same:
            raise RecipeError(
                f"{tuned.model.location} and {base.model.location} do not share a tokenizer: "
                "contrast a model with the one it was tuned from"
            )
        self._seed, self._device = seed, resolve(base.device)
        self._tuned = tuned.network
        self._base = base.network if learning_rate == 0 else self._apart(base, learning_rate)

    def _apart(self, base: Engine, learning_rate: float) -> Network:
        import torch
        from peft import LoraConfig, TaskType, get_peft_model

        lm = load_model(base.model, self._device)
        split = network(lm, base.vocabulary)
        config = LoraConfig(TaskType.CAUSAL_LM, r=_RANK, target_modules="all-linear")
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            get_peft_model(lm, config)  # puts the adapter into the modules that `split` runs
        weights = [p for p in lm.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(weights, lr=learning_rate)
        return split

    def draw(
        self, start: Sequence[int], numbers: Sequence[int], stops: Sequence[int], rule: Rule
    ) -> list[Drawn]:
        """One text for each of `numbers`, all behind `start` (at least one id).

        The text of a number draws from a stream of its own, so it does not depend on the others
        drawn with it. Cost: one token a step through both models, with caches.
        """
        import torch

        streams = [_stream(self._seed, n) for n in numbers]
        texts = [_Text() for _ in numbers]
        alive = np.arange(len(numbers))
        models = [steps(self._tuned), steps(self._base)]
        caches: list[Any] = [None, None]
        fresh = torch.tensor([list(start)] * len(numbers), device=self._device)
        length = 0
        with torch.inference_mode():
            for number in range(rule.most):
                places = torch.arange(length, length + fresh.shape[1], device=self._device)
                length += fresh.shape[1]
                mask = torch.ones((len(alive), length), dtype=torch.long, device=self._device)
                logprobs = []
                for i, step in enumerate(models):
                    found, caches[i] = step(fresh, mask, places.expand_as(fresh), caches[i])
                    logprobs.append(log_softmax(found.cpu().numpy()))
                barred = list(stops) if number < rule.least else []
                tokens = self._choose(logprobs, barred, [streams[i] for i in alive], rule)
                going = ~np.isin(tokens, stops)
                self._note(texts, alive, tokens, logprobs, going)
                if not going.any():
                    break
                keep = torch.from_numpy(np.flatnonzero(going)).to(self._device)
                if not going.all():
                    for cache in caches:
                        cache.batch_select_indices(keep)
                alive = alive[going]
                fresh = torch.from_numpy(tokens[going])[:, None].to(self._device)
        return [text.done() for text in texts]

    def learn(self, start: Sequence[int], texts: Sequence[Drawn]) -> None:
        """One step of the base on whole texts, the mean over their tokens."""
        import torch
        from torch.nn.functional import cross_entropy

        sequences = [torch.tensor([[*start, *t.ids]], device=self._device) for t in texts if t.ids]
        total = sum(s.shape[1] - 1 for s in sequences)
        self._optimizer.zero_grad()
        for ids in sequences:
            if ids.shape[1] > 1:
                logits = self._logits(ids)[0, :-1].float()
                (cross_entropy(logits, ids[0, 1:], reduction="sum") / total).backward()
        weights = self._optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        self._optimizer.step()

    def base_nll(self, ids: Sequence[int]) -> float:
        """What the base pays for a text, in nats a token, as it is by now."""
        import torch

        with torch.inference_mode():
            table = log_softmax(
                self._logits(torch.tensor([list(ids)], device=self._device))[0].cpu().numpy()
            )
        return float(-table[np.arange(len(ids) - 1), list(ids[1:])].mean())

    def _logits(self, ids: Any) -> Any:
        net: Any = self._base
        if isinstance(net, SplitNetwork):
            return net.head(net.backbone(input_ids=ids, use_cache=False).last_hidden_state)
        return net.model(input_ids=ids, use_cache=False).logits

    @staticmethod
    def _choose(
        logprobs: list[np.ndarray],
        barred: list[int],
        streams: list[np.random.Generator],
        rule: Rule,
    ) -> np.ndarray:
        """A token of each row, by inverse transform of its softmax, int64 (b,)."""
        likes, knew = logprobs[0].copy(), logprobs[1]
        likes[:, barred] = -np.inf
        scores = contrast(likes, knew, alpha=rule.alpha, gamma=rule.gamma)
        table = np.exp(scores - scores.max(axis=1, keepdims=True)).cumsum(axis=1)
        u = np.array([s.random() for s in streams])[:, None] * table[:, -1:]
        # The first whose sum is above the draw; never one of weight 0, also where it rounds up.
        last = (np.diff(table, axis=1, prepend=0) > 0).cumsum(axis=1).argmax(axis=1)
        return np.minimum((table <= u).sum(axis=1), last).astype(np.int64)

    @staticmethod
    def _note(
        texts: list[_Text],
        alive: np.ndarray,
        tokens: np.ndarray,
        logprobs: list[np.ndarray],
        going: np.ndarray,
    ) -> None:
        tuned, base = (values[np.arange(len(tokens)), tokens].tolist() for values in logprobs)
        for i in np.flatnonzero(going):
            texts[alive[i]].add(int(tokens[i]), tuned[i], base[i])


class _Text:
    """A text while it is written."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._sums = [0.0, 0.0]

    def add(self, token: int, tuned: float, base: float) -> None:
        self.ids.append(token)
        self._sums[0] += tuned
        self._sums[1] += base

    def done(self) -> Drawn:
        n = max(len(self.ids), 1)
        return Drawn(self.ids, self._sums[0] / n, self._sums[1] / n)


def _stream(seed: int, number: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"novelty\0{seed}\0{number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))
