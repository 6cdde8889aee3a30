"""What spoils a comparison, in words: unequal training, too few seeds, figures without rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tamis.pipelines.comparing.cells import FULL, RANDOM, languages
from tamis.pipelines.comparing.leakage import WORDS
from tamis.recipe import Recipe

# Fewer seeds than this leave the spread between seeds to luck.
ENOUGH_SEEDS = 3
# Differences from random in tokens and steps above this share are told.
UNEQUAL = 0.05
_NAMES = {"tokens": "tokens selected", "tokens_trained": "tokens trained on", "steps": "steps"}


def spoilers(recipe: Recipe, told: dict[str, Any]) -> list[dict[str, str]]:
    """The warnings that the document of a comparison calls for: `kind` and `text`."""
    found = [*_leakage(told), *_seeds(told), *_unequal(told["lines"]), *_full(told["lines"])]
    if told["heldout_rows"] is None:
        found.append(
            _warning(
                "rows",
                "evaluate.command gives no figures of single rows: intervals hold the spread "
                "between seeds alone, and winners are named and reported on the same figures",
            )
        )
    if recipe.tune is not None and recipe.tune.evaluate_every is not None:
        found.append(
            _warning(
                "heldout",
                "tune.evaluate_every keeps the best model on the held-out rows: the figures of all "
                "methods are better than they would be on new rows",
            )
        )
    if not languages(recipe):
        found.append(
            _warning(
                "language",
                "no score tells languages, so stratified draws by source and length; add a score "
                "with scorer: lang where the pool has several",
            )
        )
    return found


def _leakage(told: dict[str, Any]) -> list[dict[str, str]]:
    """One warning a way of being alike, with how many copies each line trained on."""
    leaks = told["leakage"]
    found = []
    for how, counts in leaks["trained_on"].items() if leaks else ():
        if any(counts):
            by = leaks["by"][how]
            form = f"; {by['form']:,} more share a form with many" if by["form"] else ""
            text = (
                f"leakage ({how}): {by['heldout']:,} of {leaks['heldout']:,} held-out rows are "
                f"like a row of the pool ({WORDS[how]}{form}); so many of them are like a row "
                "trained on: "
            )
            found.append(_warning("leakage", text + _by_budget(told["lines"], counts)))
    return found


def _by_budget(lines: Sequence[dict[str, Any]], counts: Sequence[float]) -> str:
    """A number of each line, the lines of a budget together."""
    told: dict[str, list[str]] = {}
    for line, count in zip(lines, counts, strict=True):
        budget = line["budget"]
        where = f"at {budget['size']:,} {budget['unit']} " if budget else ""
        told.setdefault(where, []).append(f"{line['method']} {count:.1f}".removesuffix(".0"))
    return "; ".join(where + ", ".join(each) for where, each in told.items())


def _seeds(told: dict[str, Any]) -> list[dict[str, str]]:
    count = len(told["seeds"])
    if count >= ENOUGH_SEEDS:
        return []
    spread = "the spread between seeds is not known" if count == 1 else "the spread is a guess"
    text = f"{count} seed{'s' * (count > 1)}, fewer than {ENOUGH_SEEDS}: {spread}"
    return [_warning("seeds", text)]


def _unequal(lines: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """One warning a budget and quantity, naming the methods that differ from random."""
    found = []
    for random in (line for line in lines if line["method"] == RANDOM):
        same = [line for line in lines if line["budget"] == random["budget"]]
        trained = random["tokens_trained"] is not None
        for name in ("tokens_trained" if trained else "tokens", "steps"):
            words = _NAMES[name]
            want = random[name]
            off = [x for x in same if want and x[name] and abs(x[name] / want - 1) > UNEQUAL]
            if off:
                told = ", ".join(f"{x['method']} {x[name]:,.0f}" for x in off)
                size = random["budget"]
                text = f"at {size['size']:,} {size['unit']}: {told}, random {want:,.0f}"
                found.append(_warning(name, f"unequal {words} {text}"))
    return found


def _full(lines: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The full pool trains longer unless tune.max_steps says otherwise."""
    full = next(line for line in lines if line["method"] == FULL)
    random = max(
        (line for line in lines if line["method"] == RANDOM), key=lambda x: x["budget"]["size"]
    )
    for name, words in (("steps", "steps"), ("tokens", "tokens")):
        if full[name] and random[name]:
            times = full[name] / random[name]
            if times <= 1 + UNEQUAL:
                return []
            text = f"the full pool trains on {times:.1f} times the {words} of the largest budget: "
            return [_warning("full", f"{text}it is a reference and cannot win")]
    return []


def _warning(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}
