"""A tiny model on disk, and tables of conversations for it."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from tamis.recipe import Model
from tamis.samples import MESSAGES, encode_message

TEMPLATE = (
    "{% for m in messages %}{% if m['role']=='user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "{% elif m['role']=='assistant' %}<|assistant|>\n"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}\n"
    "{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WORDS = "what is the sum of two and three? the answer is five, six, 0 1 2 3 4 5 6 7 8 9 yes no"


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE of 320 entries with a marked chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>", "<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


@pytest.fixture
def rewriting(tokenizer: Any) -> Any:
    """The tokenizer with a template that begins the last answer alone with "so"."""
    made = copy.copy(tokenizer)
    made.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.role == 'assistant' and loop.last %}so {% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return made


@pytest.fixture(scope="session")
def tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A Llama of two layers with random weights, large enough to be far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(path=str(folder), prompt_style="chat")


@pytest.fixture(scope="session")
def table() -> Callable[..., pa.Table]:
    """Make a table of rows from conversations, weights and tools."""

    def make(
        rows: list[list[dict[str, Any]]],
        weights: list[float | None] | None = None,
        tools: list[Any] | None = None,
    ) -> pa.Table:
        given = tools or [None] * len(rows)
        ids = [f"r{i:03d}" for i in range(len(rows))]
        return pa.table(
            {
                "row_id": ids,
                "id": ids,
                "group": ["even" if i % 2 == 0 else "odd" for i in range(len(rows))],
                "messages": pa.array([[encode_message(m) for m in r] for r in rows], MESSAGES),
                "tools": pa.array(
                    [None if t is None else orjson.dumps(t).decode() for t in given], pa.string()
                ),
                "weight": pa.array(weights or [None] * len(rows), pa.float32()),
            }
        )

    return make


@pytest.fixture(scope="session")
def sums() -> list[list[dict[str, Any]]]:
    """Forty conversations of very different lengths, some of two turns."""
    rows = []
    for i in range(40):
        question = f"what is the sum of {i} and {i % 7}?" * (1 + i % 4)
        row = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"the answer is {i + i % 7}" * (1 + i % 3)},
        ]
        if i % 5 == 0:
            row += [
                {"role": "user", "content": "yes?"},
                {"role": "assistant", "content": f"yes, {i}"},
            ]
        rows.append(row)
    return rows


class Seen:
    """A progress bar that remembers, and stops the run at a given step."""

    def __init__(self, stop_at: int | None = None):
        self.calls: list[int] = []
        self.total = 0
        self.stop_at = stop_at

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        self.total = total
        yield self.advance

    def advance(self, rows: int) -> None:
        self.calls.append(rows)
        if self.stop_at is not None and len(self.calls) > self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def progress() -> type[Seen]:
    """The class of progress bars."""
    return Seen


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, Any]]:
    """Read all tensors of a saved model or adapter."""
    from safetensors.torch import load_file

    def read(folder: Path) -> dict[str, Any]:
        return {k: v for p in sorted(folder.glob("*.safetensors")) for k, v in load_file(p).items()}

    return read


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., list[str]]:
    """Run a snippet of Python in two processes that train together: see gloo.py."""
    path = Path(__file__).with_name("gloo.py")
    spec = importlib.util.spec_from_file_location("gloo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["gloo"] = module  # for snippets that a test runs here too
    run: Callable[..., list[str]] = module.two_processes
    return run
