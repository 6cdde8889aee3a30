"""Load causal language models and their tokenizers, and say exactly which ones they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError, TamisError
from tamis.language.digest import folder_digest, hub_revision, is_cached, is_hub_id
from tamis.recipe import Model

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIG = ("config.json",)
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
_ADAPTER = ("adapter_config.json", "adapter_model*.safetensors")
# What the libraries call the longest sequence a model was built for, in the order of preference.
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")


def check(model: Model) -> None:
    """Raise `RecipeError` when the model cannot be there; reads the config only, loads nothing."""
    if model.endpoint is not None:
        raise RecipeError(
            f"the model at {model.endpoint.url} is an endpoint; this needs its weights here: name "
            "a model with path or hub"
        )
    if model.path is not None:
        folder = Path(model.path)
        if not folder.is_dir():
            raise RecipeError(f"there is no model folder {folder}: check the path")
        if not (folder / "config.json").is_file():
            raise RecipeError(
                f"the folder {folder} holds no config.json: expected a model saved by transformers"
            )
    elif not is_hub_id(model.location):
        raise RecipeError(f"{model.location!r} is not a hub id: expected owner/name")
    if model.adapter is not None and not (Path(model.adapter) / "adapter_config.json").is_file():
        raise RecipeError(f"there is no PEFT adapter (adapter_config.json) in {model.adapter}")
    max_length(model)


def max_length(model: Model) -> int:
    """The cut-off in tokens: the model's `max_length`, by default the longest the model takes.

    Raises `RecipeError` when it is above what the model takes, or when neither is known.
    """
    config = _config(model)
    text = config.get_text_config()
    known = [int(n) for name in _LIMITS if isinstance(n := getattr(text, name, None), int)]
    limit = next((n for n in known if n > 0), None)
    if model.max_length is None:
        if limit is None:
            raise RecipeError(
                f"the config of {model.location} names no longest sequence: set max_length"
            )
        return limit
    if limit is not None and model.max_length > limit:
        raise RecipeError(
            f"max_length {model.max_length} is above the {limit} tokens {model.location} takes: "
            "lower max_length or leave it out"
        )
    return model.max_length


def vocabulary(model: Model) -> int:
    """The number of tokens the model tells apart, V."""
    return int(_config(model).get_text_config().vocab_size)


def hidden_size(model: Model) -> int:
    """The number of values in a hidden state, d."""
    return int(_config(model).get_text_config().hidden_size)


def load_tokenizer(model: Model) -> Any:
    """The tokenizer of the model, as transformers gives it.

    Raises `TamisError` when it is not there, or when the prompt style is chat and it has no chat
    template.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, model, "tokenizer")
    if model.prompt_style == "chat" and not tokenizer.chat_template:
        raise TamisError(
            f"the tokenizer of {model.location} has no chat template and prompt_style is chat: "
            "save a chat_template.jinja with the tokenizer, or use prompt_style: plain"
        )
    return tokenizer


def load_model(model: Model, device: str) -> Any:
    """The model as a torch module in eval mode on `device` (`cpu` or `cuda`), with its adapter.

    The weights are in `model.dtype`, whatever the checkpoint says. Only safetensors are read: other
    formats can run code while they load. Raises `TamisError` when a part is missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    module = _from_pretrained(
        AutoModelForCausalLM, model, "model", dtype=dtype, use_safetensors=True
    )
    if model.adapter is not None:
        module = _with_adapter(module, model.adapter)
    return module.to(device=device, dtype=dtype).eval()


def identity(model: Model) -> dict[str, Any]:
    """Everything of a model that determines its values; JSON-like, without a path.

    A folder is named by the hash of its weights, config and tokenizer; a hub id by its commit.
    Reads the weights once in a process (about a gigabyte a second).
    """
    files: tuple[str, ...] = (*WEIGHTS, *CONFIG, *TOKENIZER)
    if model.trust_remote_code:
        files = (*files, "*.py")
    named: dict[str, Any]
    if model.path is not None:
        named = {"files": folder_digest(Path(model.path), files)}
    else:
        named = {"hub": model.location, "revision": _revision(model)}
    if model.adapter is not None:
        named["adapter"] = folder_digest(Path(model.adapter), _ADAPTER)
    return {
        **named,
        "dtype": model.dtype,
        "prompt_style": model.prompt_style,
        "max_length": max_length(model),
    }


def tokenizer_identity(model: Model) -> dict[str, Any]:
    """Everything that determines the token ids of a text; JSON-like, without a path."""
    if model.path is not None:
        return {"files": folder_digest(Path(model.path), TOKENIZER)}
    return {"hub": model.location, "revision": _revision(model)}


def cached(model: Model | str | None) -> bool:
    """Whether a model, or an encoder by its folder or hub id, is on this machine already."""
    if isinstance(model, Model):
        return model.path is not None or is_cached(model.location, model.revision)
    if model is None or Path(model).is_dir():
        return True
    name, _, revision = model.partition("@")
    return is_cached(name, revision or None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars that transformers draws while it loads off a terminal that has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _revision(model: Model) -> str | None:
    return None if model.path is not None else hub_revision(model.location, model.revision)


def _config(model: Model) -> Any:
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, model, "config")


def _from_pretrained(kind: Any, model: Model, what: str, **options: Any) -> Any:
    try:
        with quiet():
            return kind.from_pretrained(
                model.location,
                revision=_revision(model),
                trust_remote_code=model.trust_remote_code,
                **options,
            )
    except (OSError, ValueError, KeyError) as error:
        raise TamisError(f"cannot load the {what} of {model.location}: {_line(error)}") from error


def _with_adapter(module: Any, folder: str) -> Any:
    """The module with a PEFT adapter inside its layers."""
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise TamisError(
                f"the adapter {folder} is {config.peft_type.value}: only adapters inside the "
                "layers (LoRA and its kin) can be scored with; merge it or leave it out"
            )
        return PeftModel.from_pretrained(module, folder).get_base_model()
    except (OSError, ValueError) as error:
        raise TamisError(f"cannot load the adapter {folder}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
