"""Folders of tuned models: what kind they are, what they hold, and how a new one is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.language.load import load_model
from tamis.recipe import Model

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What belongs to weights; all else in a folder is the tokenizer's, or says when to stop.
_OF_WEIGHTS = ("config.json", "adapter_config.json", "README.md")
# Ways to begin that leave the base as it is.
_PLAIN = (True, False, "gaussian", "eva", "orthogonal")


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter; full weights otherwise. Raises `RecipeError` when it
    holds neither."""
    if (folder / _CONFIG).is_file():
        return True
    if not (folder / "config.json").is_file():
        raise RecipeError(
            f"{folder} holds neither an adapter nor a model: expected a folder that "
            "tamis tune, peft or transformers wrote"
        )
    return False


def base_of(folder: Path, base: str | None = None) -> str:
    """The model that the adapter in `folder` was made for: a folder or hub id."""
    found = base or adapter_config(folder).get("base_model_name_or_path")
    if not found:
        raise RecipeError(f"the adapter {folder} does not name its base: say --base")
    return str(found)


def place(base: str) -> Model:
    """An entry of models at a folder or hub id, in float32."""
    where = {"path": base} if Path(base).is_dir() else {"hub": base}
    return Model.model_validate({**where, "prompt_style": "plain", "dtype": "float32"})


def load(folder: str) -> Any:
    """A model on the CPU in float32."""
    return load_model(place(folder), "cpu")


def adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter."""
    found: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return found


def lora(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and tensors of an adapter that is LoRA and nothing else.

    Raises `RecipeError` for other adapters: their change of the weights is not linear in their
    tensors, or they train more than pairs of matrices.
    """
    from safetensors.torch import load_file

    config = adapter_config(folder)
    if config["peft_type"] != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config["peft_type"]
        raise RecipeError(f"{folder} is {kind}: expected plain LoRA; tamis merge it first")
    if config.get("init_lora_weights", True) not in _PLAIN:
        raise RecipeError(
            f"{folder} took a part of the base's weights into itself "
            f"({config['init_lora_weights']}): tamis merge it first"
        )
    tensors = load_file(folder / _WEIGHTS)
    odd = [n for n in tensors if not n.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd:
        raise RecipeError(f"{folder} trains {odd[0]} beside LoRA's pairs: tamis merge it first")
    return config, tensors


def save_lora(config: dict[str, Any], tensors: dict[str, Any], folder: Path) -> None:
    """Write an adapter that plain peft reads."""
    from safetensors.torch import save_file

    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / _WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / _CONFIG).write_text(text, encoding="utf-8")


def copy_rest(of: Path, to: Path) -> None:
    """Copy what is not weights: tokenizer, chat template, generation config."""
    for path in sorted(of.iterdir()):
        weights = ".safetensors" in path.name or path.name in _OF_WEIGHTS
        if path.is_file() and not weights:
            shutil.copy2(path, to / path.name)


@contextmanager
def made(out: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name `out` when the block ends well."""
    if out.exists():
        raise RecipeError(f"{out} exists already: name another folder")
    partial = out.with_name(f".{out.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(out)
    finally:
        remove(partial)


def remove(folder: Path) -> None:
    """Remove a folder that may not be there."""
    if folder.exists():
        shutil.rmtree(folder)
