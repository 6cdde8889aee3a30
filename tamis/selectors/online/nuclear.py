"""The nuclear norm of logits and their cosine projection, from hidden states alone (UDS)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError

Rows = NDArray[np.int64]
# Cells of the head that are in float64 at a time.
_CELLS = 1 << 24
# Singular values below this share of the largest need not be exact; 1 less this is as good as 1.
_LOW, _NEAR = 1e-6, 1e-12


@dataclass(frozen=True)
class Projection:
    """Signs +-1 and indices (drawn with replacement) along both axes of the logits.

    `time_signs` (T,), `vocab_signs` (V,), `time_index` (r,), `vocab_index` (c,).
    """

    time_signs: Any
    vocab_signs: Any
    time_index: Any
    vocab_index: Any

    @staticmethod
    def draw(
        rng: np.random.Generator, length: int, vocabulary: int, time: int, vocab: int
    ) -> Projection:
        """A projection of logits (length, vocabulary) to time x vocab numbers."""
        return Projection(
            rng.choice([-1.0, 1.0], length),
            rng.choice([-1.0, 1.0], vocabulary),
            rng.integers(length, size=time),
            rng.integers(vocabulary, size=vocab),
        )

    def along_time(self, n: int, device: Any) -> Any:
        """G2 of the first `n` positions, (r, n) float64. Raises `DataError` beyond its length."""
        if n > len(self.time_signs):
            raise DataError(
                f"uds projects {len(self.time_signs)} positions and a batch has {n}: raise "
                "max_length to the longest row"
            )
        return _axis(self.time_signs, self.time_index, 0, n, device)

    def along_vocabulary(self, head: Any) -> Any:
        """G1 W, (c, h) float64, in blocks of the vocabulary."""
        if len(head) != len(self.vocab_signs):
            raise DataError(
                f"the projection is of {len(self.vocab_signs)} tokens, the head has {len(head)}"
            )
        return sum(
            _axis(self.vocab_signs, self.vocab_index, a, b, head.device) @ head[a:b].double()
            for a, b in _blocks(head)
        )


def nuclear_norm(x: Any) -> Any:
    """The sum of singular values of each matrix of `x` (B, n, m), float64 (B,).

    By the Gram matrix of the smaller side, in float64: in float32 the null space alone would add
    noise of 1e-3. Its eigenvalues on a CPU; on a GPU, where those take longer than the forward pass
    of a small model, `root_trace`. Rows of zeros change nothing. O(B n m min(n, m)).
    """
    import torch

    x = x.double()
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    if gram.is_cuda:
        return root_trace(gram)
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum(dim=1)


def root_trace(gram: Any) -> Any:
    """tr(G^(1/2)) of each symmetric matrix G of `gram` (B, n, n), by matrix products alone.

    Newton-Schulz iteration for the root, scaled so that singular values from 1e-6 of the largest
    (a bound on it) to 1 come nearer to 1 at each step; smaller ones count for less than they are. 3
    products of n by n a step, about 20 steps. Matrices whose trace still moves by more than 1e-6,
    or is no number, go by their eigenvalues.

    Source: Chen and Chow, "A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix", 2014.
    """
    import torch

    # The largest sum of a row of |G| is no less than its largest eigenvalue.
    scale = gram.abs().sum(dim=2).amax(dim=1).clamp(min=torch.finfo(gram.dtype).tiny)
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    root, inverse, low = gram / scale[:, None, None], one.expand_as(gram), _LOW
    before = now = root.diagonal(dim1=1, dim2=2).sum(dim=1)
    while low < 1 - _NEAR:
        before, factor = now, math.sqrt(3 / (1 + low + low * low))
        step = (3 * one - factor**2 * inverse @ root) * (factor / 2)
        root, inverse = root @ step, step @ inverse
        now = root.diagonal(dim1=1, dim2=2).sum(dim=1)
        low = low * factor * (3 - factor**2 * low * low) / 2
    found = now * scale.sqrt()
    settled = (now - before).abs() <= 1e-6 * now
    if bool(settled.all()):
        return found
    rest = torch.linalg.eigvalsh(gram[~settled]).clamp(min=0).sqrt().sum(dim=1)
    return found.masked_scatter(~settled, rest)


def factor(head: Any) -> Any:
    """C (h, h) float64 with C C^T = W^T W, so that H W^T and H C have the same singular values.

    `head` W (V, h). Cholesky; by eigenvectors where W has dependent columns. O(V h^2), once.
    """
    import torch

    gram: Any = sum(head[a:b].double().mT @ head[a:b].double() for a, b in _blocks(head))
    root, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        return root
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


def compact(x: Any, keep: Any) -> tuple[Any, Any]:
    """The kept positions of each row moved to 0..n-1 in order, zeros after them, and n.

    `x` (B, N, h), `keep` (B, N) bool; gives (B, longest n, h) and (B,).
    """
    import torch

    count = keep.sum(dim=1)
    longest = int(count.max()) if len(count) else 0
    order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)[:, :longest]
    moved = torch.take_along_dim(x, order[:, :, None], dim=1)
    real = torch.arange(longest, device=x.device)[None] < count[:, None]
    return torch.where(real[:, :, None], moved, x.new_zeros(())), count


def embed(x: Any, projection: Projection, vocabulary: Any) -> Any:
    """z (B, r * c) float64, time outer: G2 X (G1 W)^T for `vocabulary` = G1 W."""
    time = projection.along_time(x.shape[1], x.device)
    return (time @ x.double() @ vocabulary.mT).flatten(1)


def _axis(signs: Any, index: Any, start: int, stop: int, device: Any) -> Any:
    """sqrt(size / count) * s[t] cos(2 pi i[a] t / size) for t of a stretch, (count, stretch)."""
    import torch

    signs = torch.as_tensor(signs).to(device=device, dtype=torch.float64)
    index = torch.as_tensor(index).to(device=device, dtype=torch.int64)
    size = len(signs)
    at = torch.arange(start, stop, device=device)
    # The product is reduced as an integer: as a float it would lose digits of the angle.
    angle = (index[:, None] * at[None]) % size * (2 * math.pi / size)
    return math.sqrt(size / len(index)) * torch.cos(angle) * signs[start:stop]


def _blocks(head: Any) -> Iterator[tuple[int, int]]:
    step = max(1, _CELLS // max(head.shape[1], 1))
    for start in range(0, len(head), step):
        yield start, min(start + step, len(head))
