"""The demo's result for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_RULE_WORDS = {
    "filter:nll.mean": "NLL above the filter's limit",
    "duplicate": "same content as another row",
    "too_similar": "cosine with a taken row above tau",
}
_LEGEND = (
    "found: dropped by its own rule. precision is the rule's: of what it dropped, the share with a "
    "defect it is meant for. AUC: how well nll.mean ranks the defect above clean rows."
)
_SUBSETS = (("untuned", "untuned model"), ("chosen", "curated rows"), ("baseline", "random rows"))


def show(told: Mapping[str, Any]) -> None:
    """Print the result of `demo` on stdout."""
    wide = None if sys.stdout.isatty() else 140  # a file or a pipe has no width of its own
    console = Console(highlight=False, width=wide)
    console.print(_defects(told))
    console.print(_LEGEND)
    skew = told["skew"]
    console.print(
        f"skew: {skew['skill']} was {skew['before']:.0%} of the pool and is {skew['after']:.0%} of "
        "the subset"
    )
    console.print(_heldout(told))
    for metric, value in told["difference"].items():
        console.print(f"curated minus random, {metric}: {_interval(value)}, {_verdict(value)}")
    console.print(f"took {told['seconds']:.0f} s; report: {told['report']}", soft_wrap=True)


def _defects(told: Mapping[str, Any]) -> Table:
    table = Table(title="Planted defects", title_justify="left")
    for name in ("defect", "rule"):
        table.add_column(name)
    for name in ("planted", "found", "recall", "precision", "AUC", "in the subset"):
        table.add_column(name, justify="right")
    for f in told["found"]:
        table.add_row(
            f["defect"],
            _RULE_WORDS.get(f["rule"], f["rule"]),
            str(f["planted"]),
            str(f["found"]),
            f"{f['recall']:.0%}",
            f"{f['precision']:.0%}",
            "" if f["auc"] is None else f"{f['auc']:.3f}",
            str(f["kept"]),
        )
    return table


def _heldout(told: Mapping[str, Any]) -> Table:
    table = Table(title="Held-out rows, by what the model was tuned on", title_justify="left")
    table.add_column("tuned on")
    for name in ("rows", "tokens", "NLL", "exact match"):
        table.add_column(name, justify="right")
    for name, title in _SUBSETS:
        figures = told["heldout"].get(name)
        if figures:
            size = told["subsets"].get(name, {})
            table.add_row(
                title,
                *(f"{size[unit]:,}" if size.get(unit) else "" for unit in ("rows", "tokens")),
                *(_interval(figures[m]) if m in figures else "" for m in ("nll", "exact_match")),
            )
    return table


def _interval(value: Mapping[str, float]) -> str:
    # rich reads [..] as markup where it could be a style; numbers are none.
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _verdict(value: Mapping[str, float]) -> str:
    return "no difference shown" if value["low"] <= 0 <= value["high"] else "a difference is shown"
