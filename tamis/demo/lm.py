"""The demo's language model: a tokenizer and a tiny Llama, trained from scratch on the demo's text.

It stands in for the base model that a user would bring, so that the demo needs no download. What
it knows is the demo's skills, well enough that the NLL of a right answer is lower than that of a
wrong one; it knows nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from tamis.language.load import quiet
from tamis.pipelines.context import Progress
from tamis.storage.artifact import Artifact, Maker, Say, Store
from tamis.storage.files import file_sha256

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

Encoded = tuple[np.ndarray, np.ndarray]
VERSION = 1  # raised by hand when the same inputs give another model
END = "<|end|>"
SPECIAL = ("<|pad|>", END, "<|user|>", "<|assistant|>", "<|system|>", "<|tools|>", "<|tool|>")
CALL = "<|call|>"
# One line a branch; the generation block marks what carries the loss: an assistant's words or its
# call, and the end of the turn.
TEMPLATE = (
    "{%- if tools -%}<|tools|>{% for tool in tools %}{% set function = tool.function or tool %}"
    " {{ function.name }}({{ function.parameters.properties | join(', ') }})"
    "{% endfor %}<|end|>{%- endif -%}"
    "{%- for message in messages -%}"
    "<|{{ message.role }}|>"
    "{%- if message.role == 'assistant' -%}{%- generation -%}"
    "{{- ' ' + message.content if message.content else '' -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "<|call|> {{ call.function.name }} "
    "{%- if call.function.arguments is string -%}{{- ' ' + call.function.arguments -}}"
    "{%- else -%}{{- ' ' + (call.function.arguments | tojson) -}}{%- endif -%}"
    "{%- endfor -%}<|end|>{%- endgeneration -%}"
    "{%- else -%}{{- ' ' + (message.content or '') -}}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's size and how it is trained."""

    vocab: int = 2048
    width: int = 128
    layers: int = 3
    heads: int = 4
    inner: int = 384
    positions: int = 512
    batch: int = 16  # rows of a step
    epochs: int = 1
    peak: float = 2e-3
    warmup: int = 40
    seed: int = 0


def trained(
    store: Store, text: Path, *, shape: Shape, say: Say, progress: Progress
) -> tuple[Artifact, bool]:
    """The sealed folder of the model trained on `text` (JSONL of messages), and whether it was
    there already. About a minute on two cores when it has to be made."""
    inputs = {"text": file_sha256(text), "shape": asdict(shape), "version": VERSION}
    return store.ensure("demo_lm", inputs, lambda m: _make(m, text, shape, say, progress), say=say)


def _make(maker: Maker, text: Path, shape: Shape, say: Say, progress: Progress) -> dict[str, Any]:
    rows = [orjson.loads(line) for line in text.read_bytes().splitlines()]
    tokenizer = train_tokenizer(rows, shape)
    encoded = encode(tokenizer, rows)
    started = time.perf_counter()
    model, losses = train_model(encoded, len(tokenizer), shape, progress)
    with quiet():
        model.save_pretrained(maker.folder)
    tokenizer.save_pretrained(maker.folder)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(len(ids) for ids, _ in encoded) * shape.epochs,
        "steps": len(losses),
        "seconds": round(time.perf_counter() - started, 1),
        "first_loss": losses[0],
        "last_loss": float(np.mean(losses[-20:])),
    }
    maker.write_json("training.json", facts)
    return facts


def train_tokenizer(rows: Sequence[dict[str, Any]], shape: Shape) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `shape.vocab` entries with the chat template.

    Numbers are cut into pairs of digits and Chinese into characters, so that the few words of the
    demo become one token each.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d{1,2}|\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab,
        special_tokens=[*SPECIAL, CALL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(rows), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token=END,
        additional_special_tokens=[*SPECIAL[2:], CALL],
        chat_template=TEMPLATE,
        model_max_length=shape.positions,
        clean_up_tokenization_spaces=False,
    )


def _texts(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        for message in row["messages"]:
            yield f" {message['content'] or ''}"
            for call in message.get("tool_calls") or ():
                yield f" {call['function']['name']} {call['function']['arguments']}"
        for tool in row.get("tools") or ():
            function = tool["function"]
            yield f" {function['name']}({', '.join(function['parameters']['properties'])})"


def encode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[dict[str, Any]]) -> list[Encoded]:
    """Every row rendered by the chat template: its token ids, and which an assistant wrote."""
    texts = [
        tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        for row in rows
    ]
    all_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    begin, end = tokenizer.convert_tokens_to_ids(["<|assistant|>", END])
    return [_masked(np.asarray(ids, np.int64), begin, end) for ids in all_ids]


def _masked(ids: np.ndarray, begin: int, end: int) -> Encoded:
    """A row with the mask of what lies after an assistant's tag, up to the end of its turn."""
    opens, closes = np.cumsum(ids == begin), np.cumsum(ids == end)
    # The turns that were closed when the last assistant's tag was met.
    at_open = np.maximum.accumulate(np.where(ids == begin, closes, -1))
    inside = (opens > 0) & (ids != begin)
    return ids, inside & (closes - (ids == end) == at_open)


def train_model(
    rows: Sequence[Encoded], vocab: int, shape: Shape, progress: Progress
) -> tuple[torch.nn.Module, list[float]]:
    """Train a Llama of random weights on the answers: AdamW, cosine.

    Returns the model and the loss of every step in nats a token.
    """
    import torch

    model = new_model(vocab, shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.peak, betas=(0.9, 0.98), fused=True)
    batches = list(_batches([len(ids) for ids, _ in rows], shape))
    losses = []
    model.train()
    with progress("training the demo's language model", len(batches)) as advance:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = shape.peak * _rate(step, len(batches), shape.warmup)
            loss = _loss(model, *_padded([rows[i] for i in batch]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            advance(1)
    return model.eval(), losses


def new_model(vocab: int, shape: Shape) -> torch.nn.Module:
    """A Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(shape.seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        # Both make so small a model learn several times faster: weights large enough to begin with,
        # and positions that matter within a short row.
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def _loss(model: torch.nn.Module, ids: np.ndarray, answers: np.ndarray) -> torch.Tensor:
    """Mean NLL of the answers' tokens; the head sees only the positions before them.

    Rows are padded on the right, so causal attention needs no mask.
    """
    import torch

    x = torch.from_numpy(ids)
    wanted = torch.from_numpy(answers)[:, 1:]
    hidden = model.model(input_ids=x, use_cache=False).last_hidden_state[:, :-1]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), x[:, 1:][wanted])


def _padded(rows: Sequence[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(ids) for ids, _ in rows)
    ids, answers = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for at, (row, mask) in enumerate(rows):
        ids[at, : len(row)], answers[at, : len(row)] = row, mask
    return ids, answers


def _batches(lengths: Sequence[int], shape: Shape) -> Iterator[np.ndarray]:
    """Row positions of every step: rows of like length together, batches in random order."""
    rng = np.random.default_rng(shape.seed)
    for _ in range(shape.epochs):
        order = rng.permutation(len(lengths))
        order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
        batches = np.array_split(order, max(1, len(order) // shape.batch))
        for at in rng.permutation(len(batches)):
            yield batches[at]


def _rate(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
