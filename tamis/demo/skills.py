"""The demo's skills: each draws one question with its right answer and a believable wrong one.

Every skill has few building blocks and many combinations of them, so that a very small model can
learn it and still meet combinations it never saw. `key` names the combination; which file it may
stand in depends on the key alone (`split_of`), so no held-out instance is ever trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from tamis.demo import words as w

SPLITS = (("pretrain", 70), ("pool", 92), ("heldout", 100))


@dataclass(frozen=True, slots=True)
class Case:
    """One question. `wrong` has the form of `answer` and is false. `context` is what the question
    is about, where a row shape has a field for that."""

    skill: str
    key: str
    question: str
    answer: str
    wrong: str
    context: str = ""


Draw = Callable[[random.Random], Case]


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


def _other(rng: random.Random, values: list[str], right: str) -> str:
    return rng.choice([value for value in values if value != right])


def _near(rng: random.Random, right: int) -> int:
    return rng.choice([n for n in (right - 2, right - 1, right + 1, right + 2) if n >= 0])


def arithmetic(rng: random.Random) -> Case:
    """Sums and differences of numbers up to ten."""
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    if rng.random() < 0.5:
        asks = (
            "What is {} plus {}?",
            "Add {} and {}.",
            "{} + {} = ?",
            "Find the sum of {} and {}.",
        )
        key, right = f"{a}+{b}", a + b
    else:
        a, b = max(a, b), min(a, b)
        asks = ("What is {} minus {}?", "{} - {} = ?", "Start at {} and take away {}.")
        key, right = f"{a}-{b}", a - b
    question = rng.choice(asks).format(a, b)
    return Case("arithmetic", key, question, f"{right}.", f"{_near(rng, right)}.")


def comparison(rng: random.Random) -> Case:
    """Which of two numbers is greater, answered by yes or no."""
    a, b = rng.sample(range(10, 60), 2)
    more = rng.random() < 0.5
    asks = (
        ("Is {} greater than {}?", "Is {} more than {}?", "True or not: {} is above {}?")
        if more
        else ("Is {} smaller than {}?", "Is {} less than {}?", "True or not: {} is below {}?")
    )
    answers = ("Yes.", "No.") if (a > b) == more else ("No.", "Yes.")
    return Case(
        "comparison", f"{a}{'>' if more else '<'}{b}", rng.choice(asks).format(a, b), *answers
    )


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
    """Find one line of a small table."""
    who = rng.sample(w.NAMES, 3)
    what = rng.sample(w.THINGS, 3)
    counts = rng.sample(range(2, 40), 3)
    row = rng.randrange(3)
    other = (row + rng.randint(1, 2)) % 3
    table = "; ".join(f"{n}: {c} {t}" for n, c, t in zip(who, counts, what, strict=True))
    ask = rng.choice(
        ("What does {} have?", "Look at the table. What belongs to {}?", "Find the entry of {}.")
    )
    right = f"{who[row]} has {counts[row]} {what[row]}."
    wrong = rng.choice(
        (
            f"{who[row]} has {counts[other]} {what[row]}.",
            f"{who[row]} has {counts[other]} {what[other]}.",
        )
    )
    return Case(
        "extraction", f"{table} {who[row]}", ask.format(who[row]), right, wrong, context=table
    )


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
        answer, wrong = f"{right} legs.", f"{_near(rng, right // 2) * 2} legs."
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
    false = _other(rng, sorted({line[colour] for line in w.COLOURS}), a[colour])
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


SKILLS: dict[str, Draw] = {
    skill.__name__: skill
    for skill in (
        arithmetic,
        comparison,
        capitals,
        word_order,
        backwards,
        sorting,
        units,
        letters,
        dates,
        extraction,
        translation,
        animals,
        colours,
        opposites,
        german,
        chinese,
    )
}
