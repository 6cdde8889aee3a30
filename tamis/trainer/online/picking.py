"""One step: its candidates scored, some of them picked, batches made of those."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis.numerics.ranks import spearman
from tamis.selectors.online import BatchPicker
from tamis.trainer import launch
from tamis.trainer.online import safe
from tamis.trainer.online.columns import FREE, Columns
from tamis.trainer.online.head import Head
from tamis.trainer.online.picks import Picks
from tamis.trainer.pack import shares

if TYPE_CHECKING:
    from tamis.trainer.engine import Steps

# Rows each side of the cut whose scores differ by less, relatively, may swap by rounding.
_FRAGILE = 1e-5
# greats compares with so many trusted rows a step, as its authors do.
_VALIDATION = 2


class Picking:
    """A rule at work in a trainer. Made for one run; `cut` once a step, in order.

    All processes score their share of the step's candidates, share the scores, and make the same
    pick: it is that of one process. Rows of a step compete for `keep` of its places, or those of
    each `group` in turn for theirs: all were scored by the same weights.

    `rows` are the rows of the run, the first of the dataset's; what follows is trusted rows.
    """

    def __init__(
        self,
        rule: BatchPicker,
        dataset: Steps,
        columns: Columns,
        *,
        keep: float,
        group: int | None,
        rows: int,
        seed: int,
        picks: Picks,
        reference: np.ndarray | None = None,
        head: Head | None = None,
    ):
        self.rule, self.dataset, self.columns, self.picks = rule, dataset, columns, picks
        self.keep, self.group, self.rows, self.seed = keep, group, rows, seed
        self.reference, self.head = reference, head
        self.targets, self.masses = dataset.examples.targets(), dataset.examples.masses()
        self.times = np.zeros(rows, dtype=np.int64)
        self.sums = dict.fromkeys(_SUMMED, 0)
        self.seconds = 0.0
        self.told: dict[str, Any] = {}

    def cut(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The batches of a step (`step`, `rows`, `part`), made of what is picked from its rows."""
        start = time.perf_counter()
        step, group = item["step"], item["rows"]
        scores = self._scores(group, step)
        eligible = self.targets[group] > 0
        if "weight" in scores:
            eligible &= np.isfinite(scores["total"])  # weight 0 does not undo a loss without number
        picked, counted = self._picked(scores, eligible)
        self._tell(step, group, scores, picked, counted)
        weights = scores["weight"][picked] if "weight" in scores else None
        self.seconds += time.perf_counter() - start
        return self._batches(step, group[picked], weights, item["part"])

    def state_dict(self) -> dict[str, Any]:
        """The rule's state, how often each row was trained on, and what was counted."""
        own = {f"rule.{name}": value for name, value in self.rule.state_dict().items()}
        sums = {f"sum.{name}": value for name, value in self.sums.items()}
        return {**own, **sums, "times": self.times, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the head as it is now."""
        named = {n.removeprefix("rule."): v for n, v in state.items() if n.startswith("rule.")}
        self.rule.load_state_dict(named)
        self.sums = {name: state[f"sum.{name}"] for name in self.sums}
        self.times, self.seconds = np.array(state["times"]), float(state["seconds"])
        if self.head is not None:
            self.head.give(self.rule)

    def belongs(self) -> dict[str, Any]:
        """What a state must have in common with the run that takes it up."""
        return {
            "rule": self.rule.name,
            "options": dataclasses.asdict(self.rule),  # type: ignore[call-overload]
            "keep": self.keep,
            "group": self.group,
            "data": self.dataset.examples.fingerprint(),
            "processes": launch.processes(),
        }

    def _picked(
        self, scores: dict[str, Any], eligible: np.ndarray
    ) -> tuple[np.ndarray, dict[str, int]]:
        """The rows of a step that are kept, ascending; how many cuts were fragile or not made.

        Rows compete by the scores that the rule gives them when it comes to their group; these
        stand in `scores` afterwards.
        """
        kept, counted = [], {"fragile": 0, "uncut": 0}
        for start in range(0, len(eligible), self.group or len(eligible)):
            rows = np.arange(len(eligible))[start : start + (self.group or len(eligible))]
            mine = scores if len(rows) == len(eligible) else self.rule.part(scores, rows)
            if not eligible[rows].any():
                kept.append(rows)
                counted["uncut"] += 1
                continue
            picked = self.rule.pick(mine, eligible[rows], self._share(len(rows)))
            self.rule.commit(mine, picked)
            kept.append(rows[picked])
            for name in ("total", "diversity"):
                if name in mine:
                    scores[name][rows] = mine[name]
            margin = _margin(mine["total"], eligible[rows], np.isin(rows, rows[picked]))
            counted["fragile"] += int(margin < _FRAGILE)
        return np.concatenate(kept), counted

    def _share(self, rows: int) -> int:
        return max(1, int(self.keep * rows + 0.5))

    def _scores(self, group: np.ndarray, step: int) -> dict[str, Any]:
        needs = self.rule.needs()
        if self.head is not None and self.head.trained:
            self.head.give(self.rule)
        batch: dict[str, Any] = {"tokens": self.targets[group], "ids": group}
        if "reference_loss" in needs and self.reference is not None:
            batch["reference_loss"] = self.reference[group]
        if "target_gradient" in needs:
            batch["target_gradient"] = self.columns.gradients(self._trusted(step, _VALIDATION))
        asked = needs - FREE - {"target_gradient"}
        if "hidden" in asked:  # too large to gather: scored where it is made
            return self._gathered(group, asked, scored=True)
        if asked:
            batch |= self._gathered(group, asked, scored=False)
        return self.rule.score(batch)

    def _gathered(
        self, group: np.ndarray, needs: frozenset[str], *, scored: bool
    ) -> dict[str, Any]:
        """Columns, or the scores of the rule, of all candidates: (B, ...) float64 each."""
        import torch

        lengths, count = self.dataset.examples.lengths[group], launch.processes()
        mine = np.arange(len(group))
        shared = 1 < count <= len(group)
        if shared:
            mine = shares(lengths, count)[launch.rank()]
        # Padding counts where the rule says so: then it must not hang on how rows are cut.
        width = int(lengths.max()) if getattr(self.rule, "rows", None) == "all" else None
        whole: dict[str, Any] = {}
        for at, columns in self.columns.chunks(group[mine], needs, width):
            found = self.rule.score(columns) if scored else columns
            for name, values in found.items():
                values = torch.as_tensor(values, dtype=torch.float64).to(self.columns.device)
                if name not in whole:
                    whole[name] = values.new_zeros(len(group), *values.shape[1:])
                whole[name][torch.from_numpy(mine[at])] = values
        if shared:
            whole = {name: launch.summed(whole[name]) for name in sorted(whole)}
        return {n: v if v.ndim > 1 else v.cpu().numpy() for n, v in whole.items()}

    def _batches(
        self, step: int, kept: np.ndarray, weights: np.ndarray | None, part: int
    ) -> dict[str, Any]:
        import torch

        if weights is None:
            return {"micro": self.dataset.batches(step, kept, part)}
        trusted = self._trusted(step, len(kept))
        rows = np.concatenate([kept, trusted])
        weight = safe.weighted(
            self.dataset.examples.weight[rows], weights, self.masses[rows], len(trusted)
        )
        micro = self.dataset.batches(step, rows, part, weight)
        return {"micro": micro, "total": torch.tensor(1 / launch.processes())}

    def _trusted(self, step: int, count: int) -> np.ndarray:
        """Rows of the trusted set for a step: as many as its candidates go by, a step."""
        total = len(self.dataset.examples) - self.rows
        most = max(count, self._share(len(self.dataset.groups[0])))
        return self.rows + safe.turn(total, step * most, count, self.seed)

    def _tell(
        self,
        step: int,
        group: np.ndarray,
        scores: Mapping[str, Any],
        picked: np.ndarray,
        counted: Mapping[str, int],
    ) -> None:
        kept = np.zeros(len(group), dtype=bool)
        kept[picked] = True
        np.add.at(self.times, group[picked], 1)
        lengths = self.dataset.examples.lengths[group]
        told = {
            "candidate_rows": len(group),
            "kept_rows": len(picked),
            "candidate_tokens": int(lengths.sum()),
            "kept_tokens": int(lengths[picked].sum()),
            **counted,
        }
        self.sums = {name: value + told[name] for name, value in self.sums.items()}
        figures = {**_quantiles(scores["total"]), **_by_length(scores, lengths)}
        self.told = {**told, **figures, **self._own()}
        if launch.rank() == 0:
            names = [self.dataset.examples.row_id[i] for i in group]
            self.picks.add(step + 1, names, scores, kept)

    def _own(self) -> dict[str, float]:
        """What only some rules have: the rows in the queue, the rows that carry the weight."""
        queue, effective = (getattr(self.rule, n, None) for n in ("queued", "effective_rows"))
        found = {"queued": queue} if queue is not None else {}
        return {**found, "effective_rows": effective()} if effective else found


_SUMMED = ("candidate_rows", "kept_rows", "candidate_tokens", "kept_tokens", "fragile", "uncut")


def _margin(total: np.ndarray, eligible: np.ndarray, kept: np.ndarray) -> float:
    """How far the worst kept row lies above the best that is not, relative to the larger."""
    left = total[eligible & ~kept & np.isfinite(total)]
    taken = total[eligible & kept & np.isfinite(total)]
    if not len(left) or not len(taken):
        return float("inf")
    high, low = float(taken.min()), float(left.max())
    # A rule that does not rank by its total, such as k-means, has no such cut.
    return abs(high - low) / max(abs(high), abs(low)) if high > low else float("inf")


def _quantiles(total: np.ndarray) -> dict[str, list[float]]:
    real = total[np.isfinite(total)]
    if not len(real):
        return {}
    return {"quantiles": np.quantile(real, [0, 0.25, 0.5, 0.75, 1]).tolist()}


def _by_length(scores: Mapping[str, Any], lengths: np.ndarray) -> dict[str, float]:
    """How far the scores go with the rows' tokens alone: a rank correlation; of the utility where
    a rule has one."""
    score = scores.get("utility", scores["total"])
    real = np.isfinite(score)
    found = spearman(score[real], lengths[real])
    return {} if found is None else {"length_correlation": found}
