"""The demo's skills: each draws one question with its right answer and a believable wrong one.

Every skill has few building blocks and many combinations of them, so that a very small model can
learn it and still meet combinations it never saw. `key` names the combination; which file it may
stand in depends on the key alone (`split_of`), so no held-out instance is ever trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from tamis.demo import facts, puzzles
from tamis.demo.case import Case

Draw = Callable[[random.Random], Case]
SPLITS = (("pretrain", 70), ("pool", 92), ("heldout", 100))
SKILLS: dict[str, Draw] = {
    skill.__name__: skill
    for skill in (
        puzzles.arithmetic,
        puzzles.comparison,
        puzzles.capitals,
        puzzles.word_order,
        puzzles.backwards,
        puzzles.sorting,
        puzzles.units,
        puzzles.letters,
        puzzles.dates,
        puzzles.extraction,
        facts.translation,
        facts.animals,
        facts.colours,
        facts.opposites,
        facts.german,
        facts.chinese,
    )
}


def split_of(skill: str, key: str, seed: int) -> str:
    """Which of pretrain (70 %), pool (22 %) and heldout (8 %) this instance belongs to."""
    text = f"{seed}|{skill}|{key}".encode()
    at = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % 100
    return next(name for name, bound in SPLITS if at < bound)


def draw_from(skill: str, split: str, rng: random.Random, seed: int) -> Case:
    """Draw a case of `skill` whose instance belongs to `split`."""
    while True:
        case = SKILLS[skill](rng)
        if split_of(skill, case.key, seed) == split:
            return case
