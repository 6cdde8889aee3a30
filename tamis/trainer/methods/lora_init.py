"""How a LoRA begins: inits that read training rows, inits that move the weights, 4-bit weights."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tamis.errors import MissingPackage, RecipeError
from tamis.trainer.methods.base import Context

# These put W - (alpha / rank) B A in the place of W, so that the sum is W again.
RESIDUAL = {"pissa", "olora", "corda", "lora_ga"}
_AT_ONCE = 4
# Answer tokens of a batch that EVA reads, for each direction it looks for: directions of smaller
# batches differ, and it reads them again and again until they agree.
_PLENTY = 8


def settings(init: str, corda_mode: Any) -> dict[str, Any]:
    """The part of a `LoraConfig` that says how A and B begin."""
    from peft import EvaConfig, LoraGAConfig
    from peft.tuners.lora.config import CordaConfig

    given = True if init == "default" else init
    own: dict[str, Any] = {
        "eva": {"eva_config": EvaConfig()},
        "corda": {"corda_config": CordaConfig(corda_method=corda_mode)},
        "lora_ga": {"lora_ga_config": LoraGAConfig()},
    }
    return {"init_lora_weights": given, **own.get(init, {})}


@contextmanager
def data(
    init: str, lm: Any, config: Any, context: Context, rows: int
) -> Iterator[Callable[[Any], None]]:
    """Do what the init needs before the adapter is made; gives what it needs done after.

    One forward pass over `rows` training rows (CorDA: one row at a time, its covariances know no
    batch), a backward pass too for LoRA-GA.
    """
    if init == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(lm, config, run_model=lambda: _forward(lm, context, rows))
    elif init == "lora_ga":
        from peft.tuners.lora.loraga import preprocess_loraga

        preprocess_loraga(lm, config, lambda: _backward(lm, context, rows))
    yield (
        (lambda trained: _eva(trained, context, rows)) if init == "eva" else (lambda trained: None)
    )


def _forward(lm: Any, context: Context, rows: int) -> None:
    for batch in context.batches(rows, 1):
        lm(**batch)


def _backward(lm: Any, context: Context, rows: int) -> None:
    for batch in context.batches(rows, _AT_ONCE):
        lm(**batch)["nll"].mean().backward()


def _eva(trained: Any, context: Context, rows: int) -> None:
    from peft import initialize_lora_eva_weights

    config = trained.peft_config["default"]
    batches = answered(context, rows, int(config.r * config.eva_config.rho))
    with redirect_stdout(io.StringIO()):  # peft prints
        initialize_lora_eva_weights(trained, batches, show_progress_bar=False)


def answered(context: Context, rows: int, needed: int) -> list[dict[str, Any]]:
    """The first rows in batches of several times `needed` answer tokens, or in one of all; four
    rows a batch where that is enough. peft's EVA leaves out a batch with fewer than `needed`, and
    asks for more without an end.

    Raises `RecipeError` where all rows together have fewer.
    """
    counts = [int((b["labels"][:, 1:] != -100).sum()) for b in context.batches(rows, 1)]
    at_once = _AT_ONCE
    while at_once < len(counts) and min(_sums(counts, at_once)) < _PLENTY * needed:
        at_once *= 2
    found = [
        batch
        for batch in context.batches(rows, at_once)
        if (batch["labels"][:, 1:] != -100).sum() >= needed
    ]
    if not found:
        raise RecipeError(
            f"lora: init eva reads {needed} tokens of answers at once, and the first {len(counts)} "
            f"rows have {sum(counts)}: raise init_rows, or lower rank"
        )
    return found


def _sums(counts: list[int], at_once: int) -> list[int]:
    """Answer tokens of batches of so many rows, without a shorter last one."""
    starts = range(0, len(counts) - at_once + 1, at_once)
    return [sum(counts[i : i + at_once]) for i in starts]


def factors(trained: Any) -> dict[str, Any]:
    """The matrix A of every layer, by the name of the layer."""
    return {
        name.partition(".lora_A.")[0]: parameter
        for name, parameter in trained.named_parameters()
        if ".lora_A." in name
    }


class Start:
    """A and B as they began, where the weights gave up their product."""

    def __init__(self, trained: Any):
        self._trained = trained
        self.tensors = {
            name: parameter.detach().clone()
            for name, parameter in trained.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Make the weights those that go with the `saved` start.

        On a CPU the start was computed again to the same bits and nothing changes.
        """
        import torch

        for name in factors(self._trained):
            a, b = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"
            if torch.equal(saved[a].to(self.tensors[a]), self.tensors[a]) and torch.equal(
                saved[b].to(self.tensors[b]), self.tensors[b]
            ):
                continue
            layer = self._trained.get_submodule(name)
            gap = self.tensors[b] @ self.tensors[a]
            self.tensors |= {n: saved[n].to(self.tensors[n]) for n in (a, b)}
            gap -= self.tensors[b] @ self.tensors[a]
            layer.get_base_layer().weight.data += layer.scaling["default"] * gap

    def save(self, trained: Any, folder: Path) -> None:
        """Write B A - B0 A0 as one plain LoRA [B, -B0] [A; A0] of the weights as they came."""
        import torch
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        config = trained.peft_config["default"]
        state = get_peft_model_state_dict(trained, save_embedding_layers=False)
        for name, value in state.items():
            begun = self.tensors.get(name.replace(".weight", ".default.weight"))
            if begun is not None:
                both = [value, begun] if ".lora_A." in name else [value, -begun]
                state[name] = torch.cat(both, dim=0 if ".lora_A." in name else 1)
        plain = type(config)(
            **{
                **{n: v for n, v in config.to_dict().items() if n not in _OWN},
                "r": 2 * config.r,
                "lora_alpha": 2 * config.r * next(iter(_scalings(trained))),
                "use_rslora": False,
                "inference_mode": True,
            }
        )
        folder.mkdir(parents=True)
        plain.save_pretrained(folder)
        kept = {n: t.contiguous().cpu() for n, t in state.items()}
        save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# Of the configuration, what belongs to the init alone.
_OWN = {"init_lora_weights", "corda_config", "lora_ga_config", "eva_config", "peft_type"}


def _scalings(trained: Any) -> set[float]:
    return {m.scaling["default"] for m in trained.modules() if hasattr(m, "lora_A")}


def check_quantize(device: str) -> None:
    """Raise `RecipeError` or `MissingPackage` where weights cannot be kept in 4 bits."""
    if device != "cuda":
        raise RecipeError("lora: quantize 4bit needs a GPU; this run is on the CPU: leave it out")
    if find_spec("bitsandbytes") is None:
        raise MissingPackage(
            "lora: quantize 4bit needs the package 'bitsandbytes', which is not installed: "
            "run pip install bitsandbytes"
        )


def quantize(lm: Any, device: str) -> None:
    """Put 4-bit layers (nf4, scales quantized too) in the place of all linear ones but the head."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = lm.get_output_embeddings()
    for name, layer in list(lm.named_modules()):
        if not isinstance(layer, torch.nn.Linear) or layer is head:
            continue
        small = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
        small.weight = Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        parent, _, last = name.rpartition(".")
        setattr(lm.get_submodule(parent), last, small.to(device))
    lm.is_loaded_in_4bit = True
