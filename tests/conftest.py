"""What all tests share: the folder of vectors, the small real model, and quiet surroundings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
# A shared machine stalls now and then, which says nothing of the code; and where a commit is
# judged, it must be judged alike each time. Elsewhere every run looks at new examples.
settings.register_profile("tamis", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tamis")
# No test may reach a model hub; set before anything imports transformers or datasets.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Path]:
    """Give the folder of a method's vectors; fail when it holds no case."""
    root = Path(os.environ.get("TAMIS_VECTORS", ROOT / "tests" / "vectors"))

    def folder(method: str) -> Path:
        path = root / method
        cases = [p for p in path.glob("*") if p.suffix in {".npz", ".json"}]
        if not cases:
            pytest.fail(f"no vectors for {method} in {path}")
        return path

    return folder


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The folder of the small real language model; skip where it is absent."""
    default = ROOT.parent / "shared" / "models" / "base-17m"
    path = Path(os.environ.get("TAMIS_BASE_MODEL", default))
    if not path.is_dir():
        pytest.skip(f"no small language model at {path}; set TAMIS_BASE_MODEL")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real instruction data; skip where it is absent."""
    default = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("TAMIS_REAL_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TAMIS_REAL_DATA")
    return path


CHAT = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content or '' }}"
    "{{ m.tool_calls | tojson if m.tool_calls else '' }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the folder of a random two-layer Llama of 128 positions with a tokenizer of bytes."""

    def make(*, seed: int = 0, bos: bool = False, eos: bool = True, template: bool = True) -> Path:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        letters = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        raw = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        given = {"bos_token": "<|bos|>"} if bos else {}
        given |= {"eos_token": "<|end|>"} if eos else {}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=raw, extra_special_tokens=list(SPECIAL), **given
        )
        if template:
            tokenizer.chat_template = CHAT
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(letters),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            initializer_range=0.3,
            bos_token_id=1 if bos else None,
            eos_token_id=0 if eos else None,
        )
        folder = tmp_path_factory.mktemp("tiny-lm")
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def nli(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Path]) -> Path:
    """The folder of a random classifier of pairs whose classes come in an order of their own."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("nli")
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm(template=False))
    tokenizer.pad_token = "<|end|>"
    tokenizer.model_max_length = 64
    torch.manual_seed(5)
    labels = ["entailment", "neutral", "contradiction"]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.8,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cramped() -> Iterator[Callable[..., list[int]]]:
    """Let a model run out of GPU memory whenever it is given more than so many tokens at once;
    gives the list of what it was asked to read."""
    hooks: list[Any] = []

    def make(model: Any, most: int) -> list[int]:
        import torch

        asked: list[int] = []

        def hook(_: Any, given: tuple[Any, ...]) -> None:
            asked.append(given[0].numel())
            if given[0].numel() > most:
                raise torch.cuda.OutOfMemoryError("injected")

        hooks.append(model.get_input_embeddings().register_forward_pre_hook(hook))
        return asked

    yield make
    for hook in hooks:
        hook.remove()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a server process that speaks the OpenAI protocol by a script: see openai_server.py;
    gives its URL."""
    running: list[subprocess.Popen[str]] = []

    def start(**script: Any) -> str:
        path = tmp_path / f"server-{len(running)}.json"
        path.write_text(json.dumps(script), encoding="utf-8")
        program = [sys.executable, str(Path(__file__).parent / "openai_server.py"), str(path)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in running:
        process.kill()
        process.communicate()
