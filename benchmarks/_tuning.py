"""What the benchmarks of the trainer share: rows as tokens, random models, timed runs."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._record import timed
from benchmarks.lm_scoring import MODEL
from tamis.language.load import load_tokenizer, vocabulary
from tamis.recipe import Model, Tune
from tamis.samples import MESSAGES, encode_message
from tamis.trainer.data import Examples, prepare, steps
from tamis.trainer.online import Picking
from tamis.trainer.tune import tune

# name -> layers, hidden size, inner size, heads, heads of keys, V. The last two are shaped as
# Qwen2.5-0.5B and Llama-3.2-1B: 0.49e9 and 1.2e9 parameters.
SIZES = {
    "tiny": (2, 64, 128, 4, 2, 512),
    "17m": (8, 384, 1024, 6, 6, 8_192),
    "90m": (12, 768, 2048, 12, 4, 8_192),
    "half_billion": (24, 896, 4864, 14, 2, 151_936),
    "billion": (16, 2048, 8192, 32, 8, 128_256),
}
CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
)


def command_line(told: str, *, steps: int) -> argparse.ArgumentParser:
    """The command line of what trains on rows of T0, or as long as those."""
    parser = argparse.ArgumentParser(description=told.split("\n")[0])
    parser.add_argument("--model", help="folder of a causal language model")
    parser.add_argument("--size", help="instead: a model of random weights of this size")
    parser.add_argument("--data", help="Parquet with instruction and output; default: made up")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows-per-step", type=int, default=64)
    parser.add_argument("--steps", type=int, default=steps, help="beside the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the line here")
    return parser


def prepared(
    options: argparse.Namespace, size: str | None, folder: Path, count: int, longest: int
) -> tuple[Model, Examples, dict[str, Any]]:
    """A model and rows for it by the command line, and what they are, in words.

    The model of `options.model`, by default the small real one, unless a `size` is named; its rows
    those of `options.data`. Else random weights in `folder`, and rows of random ids.
    """
    if options.model is None and size is None and not Path(MODEL).is_dir():
        size = "17m"
    if options.model is None and size is not None:
        told = {"model": f"Llama of random weights, {size}", "rows": "generated"}
        return random_model(size, folder), generated(count, SIZES[size][-1], longest), told
    path = Path(options.model or MODEL)
    if not path.is_dir():
        sys.exit(f"there is no model folder {path}: give --model or --size")
    model = Model(path=str(path), prompt_style="chat")
    if options.data:
        rows, what = examples(options.data, model, count, longest), Path(options.data).stem
    else:
        rows, what = generated(count, vocabulary(model), longest), "generated"
    return model, rows, {"model": path.name, "rows": what}


def random_model(size: str, folder: Path, positions: int = 2048) -> Model:
    """Save a Llama of random weights and one of `SIZES`, its embeddings shared with the head.

    Its tokenizer knows two tokens: rows for it are made as ids (see `generated`).
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    layers, hidden, inner, heads, keys, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(WordLevel({"<|end|>": 0, "<pad>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<pad>", chat_template=CHAT
    ).save_pretrained(folder)
    return Model(path=str(folder), prompt_style="chat")


def examples(data: str, model: Model, count: int, longest: int) -> Examples:
    """The first `count` rows, in a fixed random order, of a Parquet file with instruction and
    output, as the trainer makes them into tokens of at most `longest` a row."""
    columns = pq.read_table(data, columns=["instruction", "output"]).to_pydict()
    pairs = list(zip(columns["instruction"], columns["output"], strict=True))
    # Some rows have no room left for their answer.
    chosen = np.random.default_rng(0).permutation(len(pairs))[: count * 5 // 4]
    told = [
        [
            encode_message({"role": "user", "content": pairs[i][0]}),
            encode_message({"role": "assistant", "content": pairs[i][1]}),
        ]
        for i in chosen
    ]
    rows = pa.table(
        {
            "row_id": [f"{i:06d}" for i in range(len(told))],
            "messages": pa.array(told, MESSAGES),
            "tools": pa.nulls(len(told), pa.string()),
            "weight": pa.nulls(len(told), pa.float32()),
        }
    )
    made = prepare(rows, load_tokenizer(model), prompt_style=model.prompt_style, max_length=longest)
    return made.take(np.arange(min(count, len(made))))


def generated(count: int, vocabulary: int, longest: int, *, even: bool = False) -> Examples:
    """Rows of random ids; the last tokens, 12 on average, are the answer. As long as rows of T0
    are, log-normal with a median of 126 tokens; or all `even`, of 256."""
    rng = np.random.default_rng(0)
    drawn = np.full(count, 256.0) if even else np.exp(rng.normal(4.84, 0.88, count))
    lengths = drawn.astype(np.int64).clip(8, longest)
    answers = np.minimum(rng.geometric(1 / 12, count), lengths - 2)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    left = np.repeat(indptr[1:], lengths) - np.arange(indptr[-1])  # tokens to the end of the row
    return Examples(
        rng.integers(2, vocabulary, indptr[-1], dtype=np.int32),
        left <= np.repeat(answers, lengths),
        indptr,
        np.ones(count),
        [f"{i:06d}" for i in range(count)],
        {},
        0,
    )


@dataclass(frozen=True)
class Run:
    """Of every step but the first, which warms up: `seconds`, `scoring` seconds of them, `tokens`;
    and the `report` of the run."""

    seconds: np.ndarray
    scoring: np.ndarray
    tokens: np.ndarray
    report: dict[str, Any]

    @property
    def rates(self) -> np.ndarray:
        """Tokens a second."""
        return self.tokens / self.seconds


def middle(rates: Iterable[np.ndarray]) -> float:
    """The median over all steps of several runs."""
    return statistics.median(np.concatenate(list(rates)).tolist())


def timed_run(rows: Examples, model: Model, options: dict[str, Any], device: str) -> Run:
    """Tune, and note when each step ends."""
    ends: list[float] = []
    scoring: list[float] = []
    options = {"save_every": 10**6, "warmup": 0, **options}
    chosen = Tune.model_validate(options)

    @contextmanager
    def clock(title: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: ends.append(time.perf_counter())

    def cut(picking: Picking, item: Any) -> Any:
        found, seconds = timed(lambda: plain(picking, item))
        scoring.append(seconds)
        return found

    plain = Picking.cut
    with TemporaryDirectory() as folder, patch.object(Picking, "cut", cut):
        report = tune(
            rows,
            model,
            chosen,
            seed=0,
            device=device,
            folder=Path(folder),
            say=lambda line: None,
            progress=clock,
        )
    groups = steps(
        len(rows),
        epochs=chosen.epochs,
        rows_per_step=chosen.rows_per_step,
        max_steps=chosen.max_steps,
        seed=0,
    )
    tokens = np.array([rows.lengths[g].sum() for g in groups])
    parts = np.array(scoring) if scoring else np.zeros(len(groups))
    return Run(np.diff(ends)[1:], parts[1:], tokens[1:], report)
