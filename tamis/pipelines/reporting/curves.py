"""Lines of a report: the gains of a selection, the steps of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tamis import report as page
from tamis.pipelines.reporting.subject import Subject
from tamis.storage import files

POINTS = 300  # of a line; more cannot be seen
_SIDES = {"chosen": "kept", "baseline": "dropped"}
_TITLES = {"chosen": "selected rows", "baseline": "random rows"}
_CHARTS = {
    "nll": "NLL of the trained tokens",
    "grad_norm": "Norm of the gradient",
    "learning_rate": "Learning rate",
    "lid": "Local dimension of hidden states, training rows",
    "lid_heldout": "Local dimension of hidden states, held-out rows",
    "intruders": "Directions of a matrix that are new",
}
_DIMENSION = (
    "Compare runs of the same rows, points and neighbours alone. A fall goes with learning, a rise "
    "with memorising: seen together, not proven."
)
_NOTES = {
    "lid": _DIMENSION,
    "lid_heldout": _DIMENSION,
    "intruders": "Of its ten leading ones, on average; many go with forgetting.",
}
# Looks back, and the change that counts: of a dimension that stands still, and of one that rises.
_STILL, _RISEN = (3, 0.01), (2, 0.05)
_ONLINE = {
    "method": "rule",
    "keep": "share asked for",
    "candidate_rows": "candidates",
    "kept_rows": "rows trained on",
    "candidate_tokens": "tokens of the candidates",
    "kept_tokens": "tokens trained on",
    "seconds_scoring": "seconds scoring",
    "seconds_training": "seconds training",
}
_STEP_PICKS = """
select step, count(*) candidates, count(*) filter (kept) kept,
       avg(total) filter (kept) mean_kept, avg(total) mean_all
from picks where model = $model group by 1 order by 1
"""


def selection(subject: Subject) -> list[page.Curve]:
    """What each pick added, and the lines that the method tells of itself."""
    if subject.key is None:
        return []
    rows = subject.table(
        "select rank, gain from selections where selection = $key and kept and gain is not null "
        "order by rank"
    )
    gain = rows.column("gain").to_numpy().astype(np.float64)
    made = []
    if len(gain) > 1 and gain.min() < gain.max():
        place = rows.column("rank").to_numpy().astype(np.float64) + 1
        made.append(page.Curve("Gain of each pick", "pick", [_line("gain", place, gain)]))
        summed = _line("sum of gains", place, np.cumsum(gain))
        made.append(page.Curve("Gain, summed up", "pick", [summed]))
    found = subject.store.store.find("selections", subject.key)
    told = files.read_json(found.path / "curves.json") if found else {}
    return made + [
        page.Curve(
            name.replace("_", " "),
            "pick or round",
            [_line(name, np.arange(1.0, len(values) + 1), np.asarray(values, dtype=np.float64))],
        )
        for name, values in told.items()
        if np.ndim(values) == 1 and len(values) > 1
    ]


def models(subject: Subject) -> dict[str, str]:
    """The models this run tuned: subset and key."""
    keys = {n: k for stage in subject.run["stages"] for n, k in stage["keys"].items()}
    return {s: keys[f"{s}/model"] for s in _TITLES if f"{s}/model" in keys}


def steps(subject: Subject) -> list[page.Curve]:
    """What the trainer logged, one chart a quantity and one line a model."""
    tables = {
        subset: subject.store.sql(
            "select * from training where model = $model order by step", {"model": key}
        )
        for subset, key in models(subject).items()
    }
    made = []
    for column, title in _CHARTS.items():
        lines = []
        notes = [_NOTES[column]] if column in _NOTES else []
        for subset, table in tables.items():
            if len(table) > 1:
                step = table.column("step").to_numpy().astype(np.float64)
                value = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
                told = np.isfinite(value)
                lines.append(_line(_TITLES[subset], step[told], value[told], _SIDES[subset]))
                if column.startswith("lid"):
                    notes += [f"On {_TITLES[subset]} {said}" for said in trend(value[told])]
        if any(len(line.y) for line in lines):
            if any(len(table) > POINTS for table in tables.values()) and column not in _NOTES:
                notes.append("Means of neighbouring steps.")
            made.append(page.Curve(title, "optimizer step", lines, " ".join(notes)))
    return made + _watched(subject) + _picked(subject)


def trend(dimension: np.ndarray) -> list[str]:
    """What the last looks at a dimension say, in words."""
    said = []
    looks, change = _STILL
    last = dimension[-looks - 1 :]
    if len(last) > looks and np.ptp(last) < change * last.mean():
        said.append(f"it changed by less than {change:.0%} over the last {looks} looks.")
    looks, change = _RISEN
    if len(dimension) > looks and (dimension[-looks:] > (1 + change) * dimension.min()).all():
        said.append(f"it has risen by more than {change:.0%} above its lowest.")
    return said


def _watched(subject: Subject) -> list[page.Curve]:
    """The loss on held-out rows, of models that were watched while they learnt."""
    lines = []
    for subset, told in _reports(subject).items():
        seen = told.get("heldout_history") or []
        if len(seen) > 1:
            step, nll = (np.array([float(e[name]) for e in seen]) for name in ("step", "nll"))
            lines.append(_line(_TITLES[subset], step, nll, _SIDES[subset]))
    return [page.Curve("NLL of held-out rows", "optimizer step", lines)] if lines else []


def _reports(subject: Subject) -> dict[str, dict[str, Any]]:
    """The reports of the bundled trainer, by subset."""
    paths = {
        subset: subject.store.store.folder("models", key) / "train_report.json"
        for subset, key in models(subject).items()
    }
    return {subset: files.read_json(path) for subset, path in paths.items() if path.is_file()}


def trainings(subject: Subject) -> list[page.Training]:
    """Facts of each model that the bundled trainer tuned."""
    found = []
    for subset, told in _reports(subject).items():
        online = told.get("online") or {}
        found.append(
            page.Training(
                f"On {_TITLES[subset]}",
                _facts(told),
                {title: _spelt(online[n]) for n, title in _ONLINE.items() if n in online},
                {_times(n): c for n, c in (online.get("rows_by_times_trained") or {}).items()},
            )
        )
    return found


def _picked(subject: Subject) -> list[page.Curve]:
    """Of models tuned on rows chosen as they learnt: scores of all candidates and of those kept."""
    made = []
    for subset, key in models(subject).items():
        table = subject.store.sql(_STEP_PICKS, {"model": key})
        if len(table) < 2:
            continue
        step = table.column("step").to_numpy().astype(np.float64)
        columns = {
            name: table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in ("mean_kept", "mean_all", "kept", "candidates")
        }
        if np.isfinite(columns["mean_all"]).any():
            lines = [
                _line("rows trained on", step, columns["mean_kept"], "kept"),
                _line("all candidates", step, columns["mean_all"], "dropped"),
            ]
            title = f"Score of the online rule, {_TITLES[subset]}"
            made.append(page.Curve(title, "optimizer step", lines))
    return made


def _facts(told: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a training that a reader looks for; other trainers may leave some out."""
    names = {
        "method": "method",
        "rows": "rows",
        "steps": "steps",
        "tokens_seen": "tokens seen",
        "learning_rate": "learning rate",
        "optimizer": "optimizer",
        "trainable_share": "share of weights trained",
        "truncated": "rows cut",
        "first_nll": "NLL of the first step",
        "last_nll": "NLL of the last step",
        "seconds": "seconds",
        "device": "device",
        "seed": "seed",
    }
    facts = {title: _spelt(told[n]) for n, title in names.items() if told.get(n) is not None}
    early = told.get("early") or {}
    if "grad_norm" in early:  # what a reader compares between runs
        steps = f"the first {early['steps']:,} steps" if early["steps"] > 1 else "the first step"
        facts[f"gradient norm of {steps}"] = _spelt(early["grad_norm"])
        if early["steps"] > 1:
            facts[f"NLL of {steps}"] = _spelt(early["nll"])
    dropped = told.get("dropped") or {}
    if dropped:
        facts["rows dropped"] = ", ".join(
            f"{n.replace('_', ' ')} {c:,}" for n, c in dropped.items()
        )
    return facts


def _spelt(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _times(count: str) -> str:
    return {"0": "never", "1": "once"}.get(count, f"{count} times")


def _line(name: str, x: np.ndarray, y: np.ndarray, side: str = "") -> page.Line:
    """A line of at most `POINTS` points: means of neighbours, which a chart cannot part."""
    if len(x) > POINTS:
        cuts = np.linspace(0, len(x), POINTS + 1).astype(np.int64)
        sizes, ends = np.diff(cuts), (x[0], x[-1])
        x, y = np.add.reduceat(x, cuts[:-1]) / sizes, np.add.reduceat(y, cuts[:-1]) / sizes
        x[[0, -1]] = ends  # the axis reaches as far as the curve
    return page.Line(name, x.tolist(), y.tolist(), side)
