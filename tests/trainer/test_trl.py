"""The manifest in trl's hands: its labels must be ours, on every row."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.recipe import Model
from tamis.storage import manifests
from tamis.trainer.data import prepare

ABOUT = {"selection": {}, "seed": 0, "heldout": {}}


def conversations() -> list[list[dict[str, Any]]]:
    """Forty rows: system prompts, several turns, breaks, wide characters, specials in the text."""
    rows = []
    for i in range(40):
        row: list[dict[str, Any]] = []
        if i % 3 == 0:
            row.append({"role": "system", "content": f"Be brief, rule {i}."})
        for turn in range(1 + i % 4):
            question = ["sum?", " two\nlines ", "你好 😀", "a <b>tag</b>", "Grüße"][(i + turn) % 5]
            answer = ["five", " 5\n", "😀", "yes, no", "x <|user|> y", "ü" * 9][(i * 2 + turn) % 6]
            row += [
                {"role": "user", "content": f"{question} {i}"},
                {"role": "assistant", "content": answer},
            ]
        if i % 7 == 0:
            row.append({"role": "user", "content": "left without an answer"})
        rows.append(row)
    return rows


def their_rows(folder: Path, model_path: str, work: Path) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels as SFTTrainer prepares the manifest, read by plain datasets."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    files = {"train": str(folder / "data" / "train-*.parquet")}
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(work))["train"]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_path),
        args=SFTConfig(
            output_dir=str(work / "out"),
            assistant_only_loss=True,
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model_path),
    )
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    return [(b["input_ids"][0].tolist(), b["labels"][0].tolist()) for b in batches]


def check(table: pa.Table, model_path: str, tokenizer: Any, work: Path) -> int:
    manifests.write(work / "m", table, None, name="set", about=ABOUT, licences=[], shard_rows=7)
    rows = manifests.read(work / "m").rows()
    ours = prepare(rows, tokenizer, prompt_style="chat", max_length=100_000)
    theirs = their_rows(work / "m", model_path, work)
    assert len(theirs) == len(ours) == table.num_rows
    for i, (ids, labels) in enumerate(theirs):
        our_ids, our_labels = ours.row(i)
        assert ids == our_ids.tolist()
        assert labels == our_labels.tolist()
    return sum(label != -100 for _, labels in theirs for label in labels)


def named(table: pa.Table) -> pa.Table:
    n = table.num_rows
    return pa.table(
        {
            **{c: table[c] for c in ("row_id", "messages", "tools", "weight")},
            "source": ["s"] * n,
            "ability": pa.nulls(n, pa.string()),
            "score": pa.nulls(n, pa.float32()),
        }
    )


def test_labels_of_trl_equal_ours(tiny: Model, tokenizer: Any, table: Any, tmp_path: Path) -> None:
    rows = conversations()
    assert check(named(table(rows)), str(tiny.path), tokenizer, tmp_path) > 400


@pytest.mark.model
def test_labels_of_trl_equal_ours_on_real_rows(
    base_model: Path, real_data: Path, table: Any, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    data = pq.read_table(real_data / "t0_noisy_pool.parquet").to_pylist()[::400]
    rows = [
        [
            {"role": "user", "content": one["instruction"]},
            {"role": "assistant", "content": one["output"]},
            {"role": "user", "content": two["instruction"]},
            {"role": "assistant", "content": two["output"]},
        ][: 2 + 2 * (i % 2)]
        for i, (one, two) in enumerate(pairwise(data))
    ]
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    assert check(named(table(rows)), str(base_model), tokenizer, tmp_path) > 200
