"""What refiners changed, and what is new in the data."""

from __future__ import annotations

from pathlib import Path

from tamis import report as page
from tamis.pipelines.reporting.subject import Subject
from tamis.storage import files

SHOWN_ROWS, SHOWN_NEAREST = 20, 2
_CHANGED = """
select id, action, before, after, reason, confidences from refinements
where before is distinct from after and after is not null order by md5(id) limit $n
"""


def refined(subject: Subject) -> dict[str, int]:
    """Rows by what a refiner did with them."""
    rows = subject.rows(
        "select method || ': ' || action done, count(*) n from refinements "
        "group by 1 order by n desc, done"
    )
    return {r["done"].replace("_", " "): r["n"] for r in rows}


def changed(subject: Subject) -> list[page.Refined]:
    """Some of the rows whose answer was replaced."""
    return [
        page.Refined(
            r["id"],
            r["action"].replace("_", " "),
            subject.text(r["before"]),
            subject.text(r["after"]),
            ", ".join(filter(None, (r["reason"], r["confidences"]))).replace("_", " "),
        )
        for r in subject.rows(_CHANGED, n=SHOWN_ROWS)
    ]


def news(subject: Subject) -> page.News | None:
    """The newest account of what is new in samples of this run, as `tamis novelty` leaves it."""
    keys = {key for stage in subject.run["stages"] for key in stage["keys"].values()}
    made = [
        a
        for a in subject.store.store.all("novelty")
        if set(a.seal["inputs"]["samples"].values()) & keys
    ]
    if not made:
        return None
    told = files.read_json(made[-1].path / "novelty.json")
    how = told["settings"]
    mode = "while the base learnt them" if how["iterative"] else "with the base as it is"
    return page.News(
        f"Texts that {Path(how['tuned']).name} likes more than {Path(how['base']).name}, drawn "
        f"{mode} (seed {how['seed']}). Models wrote them; they may repeat private training text.",
        len(told["texts"]),
        [
            page.Theme(
                theme["size"],
                theme["score"],
                [subject.text(text) for text in theme["examples"]],
                [
                    (r["id"], subject.text(r["text"]), r["similarity"])
                    for r in theme["rows"][:SHOWN_NEAREST]
                ],
                theme["supported"],
            )
            for theme in told["themes"]
        ],
        told["coverage"][-1] if told["coverage"] else None,
        told["warnings"],
    )
