"""Report data made by hand, for the tests of the page."""

from __future__ import annotations

import random

from tamis.report import (
    Compared,
    Composition,
    Histogram,
    Interval,
    News,
    Refined,
    Rejected,
    ReportData,
    Sample,
    Stage,
    Theme,
)

EVIL = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"'&\x00\x1b"


def sample(at: int, *, kept: bool) -> Sample:
    reason = "it was selected" if kept else "too similar to a kept sample"
    turns = [("user", f"Question {at}: what is {at} plus {at}?"), ("assistant", f"{2 * at}.")]
    return Sample(
        f"{at:032x}", "alpaca", turns, reason, {"nll.mean": at / 7, "ifd.loss_ratio": 0.5}
    )


def histogram(signal: str, seed: int) -> Histogram:
    rng = random.Random(seed)
    kept = [int(400 * 0.8**i * rng.random()) for i in range(24)]
    dropped = [int(90 * 0.95**i * rng.random()) for i in range(24)]
    edges = [0.125 * i for i in range(25)]
    return Histogram(signal, edges, kept, dropped, 0.41, 1.2, missing=3)


def full() -> ReportData:
    """A page with every section."""
    nll = {
        "untuned": (0.61, 0.55, 0.67),
        "selected": (0.30, 0.27, 0.33),
        "random": (0.38, 0.34, 0.42),
    }
    match = {
        "untuned": (0.5, 0.43, 0.57),
        "selected": (0.74, 0.68, 0.8),
        "random": (0.71, 0.65, 0.77),
    }
    return ReportData(
        recipe="demo",
        run_id="20250102T030405-abcdef",
        started="2025-01-02 03:04:05",
        method="deita",
        counts={
            "ingested": 2000,
            "rejected": 15,
            "exact duplicates": 80,
            "filtered out": 391,
            "selected": 412,
            "tokens selected": 12345,
        },
        reasons={
            "it was selected": 412,
            "too similar to a kept sample": 700,
            "the budget was spent": 888,
        },
        composition=[
            Composition("alpaca", 818, 150, 20100, 4000),
            Composition("chat", 689, 162, 33000, 5345),
            Composition("sharegpt", 493, 100, 16400, 3000),
        ],
        rejected=[
            Rejected(
                "empty answer", 5, [("alpaca.jsonl:12", '{"instruction": "x", "output": ""}')]
            ),
            Rejected("broken JSON", 6, [("chat.jsonl:3", "this line is not JSON " * 20)]),
        ],
        histograms=[histogram(f"signal_{i}.value", i) for i in range(5)],
        compared=[
            Compared(
                name,
                None if name == "untuned" else 412,
                None if name == "untuned" else 12345,
                {"nll": Interval(*nll[name]), "exact_match": Interval(*match[name])},
            )
            for name in nll
        ],
        differences={
            "nll": Interval(-0.08, -0.11, -0.05),
            "exact_match": Interval(0.03, -0.01, 0.07),
        },
        gains={
            "nll": Interval(-0.31, -0.37, -0.25),
            "exact_match": Interval(0.04, -0.01, 0.09),
        },
        kept=[sample(i, kept=True) for i in range(20)],
        dropped=[sample(i, kept=False) for i in range(20, 40)],
        refined={"clear correct: replaced": 12, "clear correct: kept": 88},
        changed=[Refined("ef" * 16, "replaced", "It is 5.", "It is 4.", "better by 0.31")],
        news=News(
            "Texts that tuned likes more than base.",
            3,
            [
                Theme(2, 4.5, ["Why is it so?"], [("ab" * 16, "Why is it not so?", 0.81)], True),
                Theme(1, 0.5, ["zzz"], [], False),
            ],
            0.4,
            ["the base forgets"],
        ),
        stages=[Stage("ingest", 0, 3, 0.4), Stage("score", 1, 5, 31.0), Stage("tune", 0, 2, 65.2)],
        lineage={"samples/alpaca": "ab" * 16, "chosen/selection": "cd" * 16},
        versions={"tamis": "0.1.0", "torch": "2.13.0"},
        settings="name: demo\nseed: 0\n",
    )
