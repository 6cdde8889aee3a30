"""Skills that can be worked out: numbers, letters, lists, calendars."""

from __future__ import annotations

import random

from tamis.demo import words as w
from tamis.demo.case import Case


def arithmetic(rng: random.Random) -> Case:
    """Two small sums or differences at once."""
    pairs = [tuple(sorted((rng.randint(1, 9), rng.randint(1, 9)))) for _ in range(2)]
    signs = [rng.choice("+-") for _ in pairs]
    sums = [f"{b} {s} {a}" for (a, b), s in zip(pairs, signs, strict=True)]
    right = [b + a if s == "+" else b - a for (a, b), s in zip(pairs, signs, strict=True)]
    ask = rng.choice(("What are {} and {}?", "Work out {} and {}.", "Give the results of {}, {}."))
    false = right[:]
    at = rng.randrange(2)
    false[at] = _near(rng, right[at])
    spell = "{} and {}."
    return Case(
        "arithmetic", " ".join(sums), ask.format(*sums), spell.format(*right), spell.format(*false)
    )


def _near(rng: random.Random, right: int) -> int:
    return rng.choice([n for n in (right - 2, right - 1, right + 1, right + 2) if n >= 0])


def comparison(rng: random.Random) -> Case:
    """The greater of two numbers."""
    a, b = rng.sample(range(10, 60), 2)
    ask = rng.choice(
        ("Which is greater, {} or {}?", "Name the larger of {} and {}.", "{} or {}: which is more?")
    )
    return Case("comparison", f"{a} {b}", ask.format(a, b), f"{max(a, b)}.", f"{min(a, b)}.")


def capitals(rng: random.Random) -> Case:
    """Two words in capital letters."""
    a, b, c = rng.sample(w.WORDS, 3)
    ask = rng.choice(
        (
            "Write {} {} in capital letters.",
            "Put the words {} {} into upper case.",
            "Shout these two words: {} {}.",
        )
    )
    wrong = (a, c) if rng.random() < 0.5 else (c, b)
    return Case(
        "capitals",
        f"{a} {b}",
        ask.format(a, b),
        f"{a} {b}.".upper(),
        "{} {}.".format(*wrong).upper(),
    )


def word_order(rng: random.Random) -> Case:
    """Three words in reverse order."""
    a, b, c = rng.sample(w.WORDS, 3)
    ask = rng.choice(
        (
            "Reverse the order of these words: {}, {}, {}.",
            "Read the list from the end to the start: {}, {}, {}.",
            "Turn this list around: {}, {}, {}.",
        )
    )
    wrong = rng.choice(((a, b, c), (c, a, b), (b, c, a), (b, a, c)))
    return Case(
        "word_order",
        f"{a} {b} {c}",
        ask.format(a, b, c),
        f"{c}, {b}, {a}.",
        "{}, {}, {}.".format(*wrong),
    )


def backwards(rng: random.Random) -> Case:
    """Two three-letter words spelt backwards."""
    a, b, c = rng.sample(w.SHORT, 3)
    ask = rng.choice(
        (
            "Spell {} and {} backwards.",
            "Write {} and {} with their letters reversed.",
            "What do you get when you mirror {} and {}?",
        )
    )
    wrong = (a, c) if rng.random() < 0.5 else (c, b)
    spell = "{} and {}."
    return Case(
        "backwards",
        f"{a} {b}",
        ask.format(a, b),
        spell.format(a[::-1], b[::-1]),
        spell.format(*(x[::-1] for x in wrong)),
    )


def sorting(rng: random.Random) -> Case:
    """Three words in alphabetical order."""
    given = rng.sample(w.SHORT, 3)
    ask = rng.choice(
        (
            "Sort these words by alphabet: {}, {}, {}.",
            "Put {}, {}, {} into alphabetical order.",
            "In a dictionary, in which order do {}, {}, {} come?",
        )
    )
    right = sorted(given)
    wrong = right[:]
    while wrong == right:
        rng.shuffle(wrong)
    spell = "{}, {}, {}."
    return Case(
        "sorting", " ".join(given), ask.format(*given), spell.format(*right), spell.format(*wrong)
    )


def units(rng: random.Random) -> Case:
    """From a big unit to a small one."""
    big, small, factor, least, most = rng.choice(w.UNITS)
    count = rng.randint(least, most)
    ask = rng.choice(
        ("How many {1} are {0} {2}?", "Convert {0} {2} to {1}.", "Express {0} {2} in {1}.")
    )
    right = count * factor
    wrong = rng.choice((right * 10, (count + 1) * factor, (count - 1) * factor))
    return Case(
        "units",
        f"{count} {big} {small}",
        ask.format(count, small, big),
        f"{right} {small}.",
        f"{wrong} {small}.",
    )


def letters(rng: random.Random) -> Case:
    """How many letters two words have together."""
    a, b = rng.sample(w.WORDS, 2)
    ask = rng.choice(
        (
            "How many letters do {} and {} have together?",
            "Count the letters in {} and {}.",
            "What is the total number of letters of {} and {}?",
        )
    )
    right = len(a) + len(b)
    return Case("letters", f"{a} {b}", ask.format(a, b), f"{right}.", f"{_near(rng, right)}.")


def dates(rng: random.Random) -> Case:
    """The neighbours of two days of the week or two months of the year."""
    names, unit = rng.choice(((w.DAYS, "day"), (w.MONTHS, "month")))
    a, b, c = rng.sample(range(len(names)), 3)
    step = rng.choice((1, -1))
    ask = rng.choice(
        (
            "Which {unit}s come right {side} {a} and {b}?",
            "Name the {unit}s {side} {a} and {b}.",
            "What {unit} is one {side} {a}, and one {side} {b}?",
        )
    )
    question = ask.format(unit=unit, a=names[a], b=names[b], side="after" if step > 0 else "before")
    right = [names[(at + step) % len(names)] for at in (a, b, c)]
    wrong = (right[0], right[2]) if rng.random() < 0.5 else (right[2], right[1])
    return Case(
        "dates",
        f"{names[a]} {names[b]} {step}",
        question,
        f"{right[0]} and {right[1]}.",
        "{} and {}.".format(*wrong),
    )


def extraction(rng: random.Random) -> Case:
    """Find one line of a short list."""
    who = rng.sample(w.NAMES, 3)
    what = rng.sample(w.THINGS, 3)
    counts = rng.sample(range(2, 40), 3)
    row = rng.randrange(3)
    other = (row + rng.randint(1, 2)) % 3
    table = "; ".join(f"{n} has {c} {t}" for n, c, t in zip(who, counts, what, strict=True))
    ask = rng.choice(
        ("What does {} have?", "Look at the list. What belongs to {}?", "Find the line of {}.")
    )
    right = f"{who[row]} has {counts[row]} {what[row]}."
    wrong = rng.choice(
        (
            f"{who[row]} has {counts[other]} {what[row]}.",
            f"{who[row]} has {counts[other]} {what[other]}.",
        )
    )
    return Case(
        "extraction",
        f"{table} {who[row]}",
        ask.format(who[row]),
        right,
        wrong,
        context=f"List: {table}",
    )
