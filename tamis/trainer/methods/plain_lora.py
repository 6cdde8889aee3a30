"""Writing an update of known low rank as a LoRA that plain peft reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save(updates: Mapping[str, tuple[Any, Any]], base: str, folder: Path) -> None:
    """Write W + B A of every layer as a LoRA of scaling 1; `updates` are name -> (B, A).

    B is (m, r), A is (r, n); ranks may differ from layer to layer. `base` is what the adapter is
    to be put on.
    """
    from peft import LoraConfig, TaskType
    from safetensors.torch import save_file

    ranks = {name: a.shape[0] for name, (_, a) in updates.items()}
    most = max(ranks.values())
    # peft reads the names of the patterns as regular expressions.
    other = {re.escape(name): rank for name, rank in ranks.items() if rank != most}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        r=most,
        lora_alpha=most,
        rank_pattern=other,
        alpha_pattern=dict(other),
        target_modules=sorted(ranks),
        inference_mode=True,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tensors = {}
    for name, (b, a) in updates.items():
        for letter, factor in (("A", a), ("B", b)):
            key = f"base_model.model.{name}.lora_{letter}.weight"
            tensors[key] = factor.detach().float().contiguous().cpu()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
