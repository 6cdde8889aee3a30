"""Model soups: the mean of several models that were tuned from one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tamis.errors import RecipeError
from tamis.language.load import load_tokenizer, quiet
from tamis.trainer.after import folders

Score = Callable[[Path], float]


def uniform(models: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the mean of all models; returns facts."""
    with folders.made(out) as partial:
        write(models, partial)
    return {"model": str(out), "members": [str(m) for m in models]}


def greedy(models: Sequence[Path], out: Path, score: Score) -> dict[str, Any]:
    """Write the mean of the models that the greedy recipe keeps; returns facts.

    `score` of a folder, higher is better, on rows that served neither selection nor stopping.
    Costs one evaluation a model and one a candidate; the candidate lies beside `out` meanwhile.
    """
    alone = [score(model) for model in models]
    trial = out.with_name(f".{out.name}.trial")

    def tried(members: list[int]) -> float:
        try:
            with folders.made(trial) as partial:
                write([models[i] for i in members], partial)
            return score(trial)
        finally:
            folders.remove(trial)

    members, scores = greedily(alone, tried)
    with folders.made(out) as partial:
        write([models[i] for i in members], partial)
    return {
        "model": str(out),
        "members": [str(models[i]) for i in members],
        "scores": alone,
        "candidates": scores,
    }


def greedily(
    alone: Sequence[float], score: Callable[[list[int]], float]
) -> tuple[list[int], list[float]]:
    """Which models the greedy recipe keeps, in order, and the score of each candidate soup.

    Models in descending order of their score alone, of equals the first; each is kept if the mean
    with it scores strictly higher than without.

    Source: Wortsman et al., "Model soups", 2022 (arXiv 2203.05482).
    """
    first, *others = np.argsort(-np.asarray(alone), kind="stable").tolist()
    members, best, tried = [first], alone[first], []
    for model in others:
        tried.append(score([*members, model]))
        if tried[-1] > best:
            members, best = [*members, model], tried[-1]
    return members, tried


def write(models: Sequence[Path], to: Path) -> None:
    """Write the mean of models into a folder, with the tokenizer of the first.

    Means of weights for full weights (memory: two models); for LoRA adapters one adapter whose rank
    is the sum of theirs, which is the exact mean of their changes: means of A and of B apart are
    not. Raises `RecipeError` for fewer than one model, a mix of kinds, or different bases.
    """
    if not models:
        raise RecipeError("a soup needs a model: name their folders")
    kinds = {folders.is_adapter(model) for model in models}
    if len(kinds) > 1:
        raise RecipeError("adapters and full weights do not mix: tamis merge the adapters first")
    with quiet():
        (_join if kinds == {True} else _average)(models, to)
    folders.copy_rest(models[0], to)


def _average(models: Sequence[Path], to: Path) -> None:
    import torch

    words = load_tokenizer(folders.place(str(models[0]))).get_vocab()
    for model in models[1:]:
        if load_tokenizer(folders.place(str(model))).get_vocab() != words:
            raise RecipeError(f"{model} and {models[0]} have different vocabularies")
    mean = folders.load(str(models[0]))
    with torch.no_grad():
        for n, model in enumerate(models[1:], start=1):
            other = dict(folders.load(str(model)).named_parameters())
            mine = dict(mean.named_parameters())
            if {k: p.shape for k, p in mine.items()} != {k: p.shape for k, p in other.items()}:
                raise RecipeError(f"{model} and {models[0]} do not have the same tensors")
            for name, parameter in mine.items():
                parameter.copy_(parameter * (n / (n + 1)) + other[name] / (n + 1))
    mean.save_pretrained(to)


def _join(models: Sequence[Path], to: Path) -> None:
    """The pairs of all adapters behind each other: sum_i B_i A_i s_i / n, s_i inside B."""
    import torch

    read = [folders.lora(model) for model in models]
    bases = {config["base_model_name_or_path"] for config, _ in read}
    if len(bases) > 1:
        raise RecipeError(
            f"the adapters have different bases: {', '.join(sorted(map(str, bases)))}"
        )
    parts: dict[str, list[Any]] = {}
    for config, tensors in read:
        for name, tensor in tensors.items():
            factor = _scaling(config, tensors, name) / len(read) if ".lora_B." in name else 1.0
            parts.setdefault(name, []).append(tensor * factor)
    joined = {n: torch.cat(p, dim=1 if ".lora_B." in n else 0) for n, p in parts.items()}
    ranks = {_module(n): len(t) for n, t in joined.items() if ".lora_A." in n}
    most = max(ranks.values())
    odd = {re.escape(name): rank for name, rank in ranks.items() if rank != most}
    own = {"target_modules": sorted(ranks), "exclude_modules": None, "layers_to_transform": None}
    scale = {"r": most, "lora_alpha": most, "rank_pattern": odd, "alpha_pattern": odd}
    config = {**read[0][0], **own, **scale, "use_rslora": False, "init_lora_weights": True}
    folders.save_lora(config, joined, to)


def _scaling(config: dict[str, Any], tensors: dict[str, Any], name: str) -> float:
    """alpha / r of a pair, or alpha / sqrt(r) where the adapter was trained so."""
    rank, module = tensors[name].shape[1], _module(name)
    alpha = next(
        (a for key, a in config.get("alpha_pattern", {}).items() if _named(module, key)),
        config["lora_alpha"],
    )
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _named(module: str, pattern: str) -> bool:
    """Whether peft takes the pattern for this module."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _module(name: str) -> str:
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0]
