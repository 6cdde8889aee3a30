"""Skills that have to be known: words in other languages, animals, colours, opposites."""

from __future__ import annotations

import random

from tamis.demo import words as w
from tamis.demo.case import Case


def translation(rng: random.Random) -> Case:
    """Two words from English into German, French or Spanish."""
    a, b, c = rng.sample(w.LEXICON, 3)
    at = rng.randint(1, 3)
    language = w.LANGUAGES[at - 1]
    ask = rng.choice(
        (
            "Translate into {2}: {0}, {1}.",
            "What are {0} and {1} in {2}?",
            "Give the {2} words for {0} and {1}.",
        )
    )
    wrong = (a, c) if rng.random() < 0.5 else (c, b)
    return Case(
        "translation",
        f"{a[0]} {b[0]} {language}",
        ask.format(a[0], b[0], language),
        f"{a[at]}, {b[at]}.",
        f"{wrong[0][at]}, {wrong[1][at]}.",
    )


def animals(rng: random.Random) -> Case:
    """Sounds, homes and legs of two animals."""
    a, b, c = rng.sample(w.ANIMALS, 3)
    kind = rng.choice(("sound", "home", "legs"))
    if kind == "legs":
        ask = "How many legs do a {} and a {} have together?"
        right = a[1] + b[1]
        answer, wrong = f"{right} legs.", f"{right + 2} legs."
    elif kind == "sound":
        ask = rng.choice(("What sounds do a {} and a {} make?", "How do a {} and a {} talk?"))
        answer = f"The {a[0]} {a[2]} and the {b[0]} {b[2]}."
        wrong = f"The {a[0]} {c[2]} and the {b[0]} {b[2]}."
    else:
        ask = rng.choice(("Where do a {} and a {} live?", "Name the homes of a {} and a {}."))
        answer = f"The {a[0]} in the {a[3]}, the {b[0]} in the {b[3]}."
        wrong = f"The {a[0]} in the {a[3]}, the {b[0]} in the {c[3]}."
    return Case("animals", f"{kind} {a[0]} {b[0]}", ask.format(a[0], b[0]), answer, wrong)


def colours(rng: random.Random) -> Case:
    """The colours of two things, in English."""
    return _colours(
        rng,
        "colours",
        0,
        (
            "What colour are {} and {}?",
            "Tell me the colours of {} and {}.",
            "Which colours belong to {} and {}?",
        ),
        "{} is {} and {} is {}.",
    )


def german(rng: random.Random) -> Case:
    """The colours of two things, in German."""
    return _colours(
        rng,
        "german",
        2,
        ("Welche Farbe haben {} und {}?", "Nenne die Farben von {} und {}."),
        "{} ist {} und {} ist {}.",
    )


def chinese(rng: random.Random) -> Case:
    """The colours of two things, in Chinese."""
    return _colours(
        rng, "chinese", 4, ("{}和{}是什么颜色?", "请说出{}和{}的颜色。"), "{}是{},{}是{}。"
    )


def _colours(
    rng: random.Random, skill: str, column: int, asks: tuple[str, ...], spell: str
) -> Case:
    a, b = rng.sample(w.COLOURS, 2)
    name, colour = column, column + 1
    false = rng.choice(sorted({line[colour] for line in w.COLOURS} - {a[colour]}))
    return Case(
        skill,
        f"{a[0]} {b[0]}",
        rng.choice(asks).format(a[name], b[name]),
        spell.format(a[name], a[colour], b[name], b[colour]),
        spell.format(a[name], false, b[name], b[colour]),
    )


def opposites(rng: random.Random) -> Case:
    """The opposites of two adjectives."""
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(w.OPPOSITES, 3)]
    (a, not_a), (b, not_b), (c, not_c) = pairs
    ask = rng.choice(
        (
            "What are the opposites of {} and {}?",
            "Give the contrary of {} and of {}.",
            "Neither {} nor {}, but what?",
        )
    )
    wrong = (not_a, not_c) if rng.random() < 0.5 else (c, not_b)
    return Case(
        "opposites",
        f"{a} {b}",
        ask.format(a, b),
        f"{not_a} and {not_b}.",
        "{} and {}.".format(*wrong),
    )
