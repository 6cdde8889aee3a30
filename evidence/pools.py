"""The pools of the grid, cut from the labelled data by a seed; the truth stands apart.

Whatever a contestant picks from lacks the columns that tell the truth. Beside the rows of `t0_eval`
some rows of the pool are held out for evaluation (`heldout`), and some to choose steps and options
on (`choice`); no contestant may pick either. The size `small` takes short rows only, so that a
cell takes minutes on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.storage import files

SEED = 20
SHORT = ("rotten_tomatoes", "glue_qqp", "commonsense_qa", "paws")
# Of the small skewed pool, largest first: what a small model cannot learn in minutes stands before
# what it can, so that the skew costs something.
KINDS = (
    "commonsense_qa", "sciq", "glue_qqp", "paws", "ag_news", "rotten_tomatoes", "dbpedia_14",
)  # fmt: skip
# The family of rank r has first / r^ZIPF rows.
ZIPF = 1.5
COPIES = 0.2
# The right answer of each row, by name; written last.
TRUTH = "answers.json"
_SHOWN = ["id", "instruction", "output", "family"]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the data is used: families, the longest row in tokens, rows set apart."""

    families: tuple[str, ...] | None
    longest: int | None
    choice: int
    heldout: int
    skewed_longest: int | None
    skewed_first: int
    skewed_heldout: int
    skewed_choice: int
    target_longest: int | None
    target_pool: int
    target_test: int


SIZES = {
    "small": Size(SHORT, 48, 150, 300, 64, 560, 36, 20, 160, 500, 120),
    "large": Size(None, None, 500, 0, None, 1_900, 40, 13, None, 7_000, 1_319),
}


def make(data: Path, tokenizer: str, size: str, folder: Path) -> None:
    """Write every pool under `folder`, once. `data` holds the labelled Parquet files, and
    `tokenizer` counts the tokens of a row."""
    if (folder / TRUTH).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    from transformers import AutoTokenizer

    cut, tables = SIZES[size], _Tables(data, AutoTokenizer.from_pretrained(tokenizer))
    for cut_out in (_noisy, _skewed, _target):
        cut_out(tables, cut, folder, np.random.default_rng(SEED))
    right = (tables.all("t0_pool").column(name).to_pylist() for name in ("id", "output"))
    files.write_json(folder / TRUTH, dict(zip(*right, strict=True)))


class _Tables:
    """The labelled files, by the length of their rows."""

    def __init__(self, data: Path, tokenizer: object):
        self.data, self.tokenizer = data, tokenizer

    def all(self, name: str) -> pa.Table:
        """Every row of a file."""
        return pq.read_table(self.data / f"{name}.parquet")

    def short(self, name: str, families: tuple[str, ...] | None, longest: int | None) -> pa.Table:
        """The rows of these families that have no more tokens than `longest`."""
        table = self.all(name)
        if families is not None:
            table = table.filter(pc.is_in(table.column("family"), pa.array(families)))
        if longest is None:
            return table
        parts = (table.column(c).to_pylist() for c in ("instruction", "output"))
        texts = ["\n\n".join(pair) for pair in zip(*parts, strict=True)]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        return table.filter(pa.array([len(ids) <= longest for ids in rows]))


def _noisy(tables: _Tables, cut: Size, folder: Path, rng: np.random.Generator) -> None:
    """`noisy` as it is, `clean` with the right answers, `uncorrupted` the rows left alone."""
    clean = tables.short("t0_pool", cut.families, cut.longest)
    choice, heldout, rest = np.split(
        rng.permutation(clean.num_rows), [cut.choice, cut.choice + cut.heldout]
    )
    tests = tables.short("t0_eval", cut.families, cut.longest)
    _write(folder, "choice", clean.take(choice))
    _write(folder, "heldout", tests, clean.take(heldout))
    clean = clean.take(np.sort(rest))
    noisy = tables.all("t0_noisy_pool")
    noisy = noisy.take(pc.index_in(clean.column("id"), noisy.column("id").combine_chunks()))
    _write(folder, "clean", clean)
    _write(folder, "noisy", noisy)
    _write(folder, "uncorrupted", noisy.filter(pc.invert(noisy.column("is_corrupted"))))


def _skewed(tables: _Tables, cut: Size, folder: Path, rng: np.random.Generator) -> None:
    """`skewed`: families by Zipf's law, one row in five a copy of another with a word left out.
    `skewed_heldout` and `skewed_choice` hold as many rows of each family."""
    families = KINDS if cut.families is not None else None
    table = tables.short("t0_pool", families, cut.skewed_longest)
    table = table.take(rng.permutation(table.num_rows))
    sizes = {f["values"]: f["counts"] for f in pc.value_counts(table.column("family")).to_pylist()}
    order = families or sorted(sizes, key=lambda name: (-sizes[name], name))
    pool, heldout, choice = [], [], []
    for rank, family in enumerate(order, 1):
        rows = table.filter(pc.equal(table.column("family"), family))
        first = cut.skewed_heldout + cut.skewed_choice
        heldout.append(rows.slice(0, cut.skewed_heldout))
        choice.append(rows.slice(cut.skewed_heldout, cut.skewed_choice))
        pool.append(rows.slice(first, int(cut.skewed_first / rank**ZIPF)))
    rows = pa.concat_tables(pool)
    copies = rows.take(rng.choice(rows.num_rows, int(COPIES / (1 - COPIES) * rows.num_rows)))
    _write(folder, "skewed", rows, _nearly(copies, rng))
    _write(folder, "skewed_heldout", *heldout)
    _write(folder, "skewed_choice", *choice)


def _nearly(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The rows with one word of the instruction left out."""
    out = []
    for text in table.column("instruction").to_pylist():
        words = text.split(" ")
        gone = int(rng.integers(len(words)))
        out.append(" ".join(words[:gone] + words[gone + 1 :]))
    return table.set_column(
        table.schema.get_field_index("instruction"), "instruction", pa.array(out)
    )


def _target(tables: _Tables, cut: Size, folder: Path, rng: np.random.Generator) -> None:
    """`mixed`: other tasks and grade-school mathematics, of which `wanted` shows some rows and
    `problems` holds the pool's own; `target_heldout` and `target_choice` are of the latter kind."""
    known = tables.short("gsm8k_train", None, cut.target_longest)
    known = known.take(rng.permutation(known.num_rows))
    tests = tables.short("gsm8k_test", None, cut.target_longest)
    tests = tests.take(rng.permutation(tests.num_rows))
    other = tables.short("t0_pool", cut.families, cut.longest)
    wanted, choice, pool = (known.slice(*x) for x in ((0, 60), (60, 60), (120, cut.target_pool)))
    _write(folder, "mixed", other, pool)
    _write(folder, "problems", pool)
    _write(folder, "wanted", wanted)
    _write(folder, "target_choice", choice)
    _write(folder, "target_heldout", tests.slice(0, cut.target_test))


def _write(folder: Path, name: str, *tables: pa.Table) -> None:
    """The rows without any column that tells the truth. `row` is their name in the data."""
    shown = []
    for table in tables:
        if "family" not in table.column_names:
            table = table.append_column("family", pa.repeat("gsm8k", table.num_rows))
        shown.append(table.select(_SHOWN))
    out = pa.concat_tables(shown).rename_columns(["row", *_SHOWN[1:]])
    pq.write_table(out, folder / f"{name}.parquet")
