"""Tuned copies of the tiny model: adapters and full weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.recipe import Model


@pytest.fixture(scope="session")
def adapter(tiny: Model, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the folder of a LoRA adapter with random pairs."""

    def make(seed: int = 1, **options: Any) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        settings = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **options}
        base = AutoModelForCausalLM.from_pretrained(tiny.path)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def full(tiny: Model, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the folder of full weights near the tiny model's."""

    def make(seed: int = 1) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny.path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp("full")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def logits() -> Callable[..., Any]:
    """Logits of the model in a folder, by plain peft or transformers, on fixed tokens."""

    def ask(folder: Path | str) -> Any:
        import torch
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM

        adapter = (Path(folder) / "adapter_config.json").is_file()
        kind = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
        with torch.inference_mode():
            ids = torch.arange(10, 60)[None]
            return kind.from_pretrained(folder).eval()(input_ids=ids).logits

    return ask


@pytest.fixture(scope="session")
def parameters() -> Callable[..., dict[str, Any]]:
    """The weights of the model in a folder, an adapter's merged by peft."""

    def read(folder: Path | str) -> dict[str, Any]:
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM

        if (Path(folder) / "adapter_config.json").is_file():
            model = AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(folder)
        return {name: p.detach() for name, p in model.named_parameters()}

    return read
