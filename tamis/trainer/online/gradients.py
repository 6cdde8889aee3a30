"""The gradient of each row's mean loss by what is trained, whatever the tuning method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

# Numbers kept of a gradient that has more. A prime: rows and columns of weights have round sizes,
# and two entries of one column should not always fall on each other.
_KEPT = 65_521


class RowGradients:
    """Norms and short forms of the gradients of single rows, a backward pass each.

    A gradient of more than 65,521 numbers is multiplied by random signs and folded up to that
    length: dot products are kept on average, with a relative error of about 1 / sqrt(65,521). The
    signs hang on `seed` and the parameter's name. Memory: a sign of one byte a trained parameter,
    and the gradient of one row.
    """

    def __init__(self, trained: Any, seed: int):
        self.trained = trained
        self.named = {n: p for n, p in trained.named_parameters() if p.requires_grad}
        self.folded = sum(p.numel() for p in self.named.values()) > _KEPT
        self.signs = {n: _signs(n, p, seed) for n, p in self.named.items()} if self.folded else {}

    def of(self, rows: Iterable[tuple[Any, Any]], needs: frozenset[str]) -> dict[str, Any]:
        """`gradient` (n, p) float32 and `gradient_norm` (n,) float64 of rows (ids, labels), each
        (1, t). A row without a trained token has NaN."""
        import torch

        norms, vectors = [], []
        for ids, labels in rows:
            with torch.enable_grad():
                loss = self.trained(input_ids=ids, labels=labels)["nll"].mean()
                parts = torch.autograd.grad(loss, list(self.named.values()), allow_unused=True)
            given = {n: g.detach() for n, g in zip(self.named, parts, strict=True) if g is not None}
            squares = [g.double().square().sum() for g in given.values()]
            norms.append(torch.stack(squares).sum().sqrt())
            if "gradient" in needs:
                vectors.append(self._short(given))
        found = {"gradient_norm": torch.stack(norms)}
        if vectors:
            found["gradient"] = torch.stack(vectors)
        return {name: found[name] for name in found.keys() & needs}

    def _short(self, given: dict[str, Any]) -> Any:
        import torch

        if not self.folded:
            zeros = {n: p for n, p in self.named.items() if n not in given}
            whole = [given[n] if n in given else torch.zeros_like(zeros[n]) for n in self.named]
            return torch.cat([g.flatten().float() for g in whole])
        first = next(iter(self.named.values()))
        kept = torch.zeros(_KEPT, device=first.device)
        for name, gradient in given.items():
            signed = gradient.flatten().float() * self.signs[name]
            lines = torch.nn.functional.pad(signed, (0, -len(signed) % _KEPT)).view(-1, _KEPT)
            kept += lines.sum(dim=0)
        return kept


def _signs(name: str, parameter: Any, seed: int) -> Any:
    """+-1 for each number of a parameter, int8."""
    import torch

    words = hashlib.sha256(f"{seed} {name}".encode()).digest()
    own = torch.Generator().manual_seed(int.from_bytes(words[:7], "big"))
    drawn = torch.randint(2, (parameter.numel(),), generator=own, dtype=torch.int8)
    return (drawn * 2 - 1).to(parameter.device)
