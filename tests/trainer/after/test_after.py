"""Merging, averaging and scaling of tuned models against arithmetic on their weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.trainer.after import soups
from tamis.trainer.after.lines import coefficient, layer_of, lines
from tamis.trainer.after.merge import merge


def load(vectors: Callable[[str], Path], pattern: str) -> list[dict[str, np.ndarray]]:
    found = []
    for path in sorted(vectors("trainer").glob(pattern)):
        with np.load(path, allow_pickle=False) as file:
            found.append(dict(file))
    assert found
    return found


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    import torch

    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=2e-6, msg=name)


def test_coefficients_of_layers(vectors: Any) -> None:
    for case in load(vectors, "lines*.npz"):
        n, names = int(case["num_blocks"]), [str(name) for name in case["names"]]
        for i, (alpha, beta) in enumerate(case["cases"]):
            found = [coefficient(alpha, beta, layer_of(name, "model.layers"), n) for name in names]
            np.testing.assert_allclose(found, case[f"coef_{i}"], rtol=1e-6)
            scaled = np.array(found)[:, None, None] * case["task_vector"]
            np.testing.assert_allclose(scaled, case[f"scaled_{i}"], rtol=1e-6, atol=1e-7)


def test_layers_are_told_by_the_prefix_of_the_decoder() -> None:
    assert layer_of("model.layers.10.mlp.experts.1.up.weight", "model.layers") == 10
    assert layer_of("visual.layers.3.up.weight", "model.layers") is None
    assert layer_of("model.norm.weight", "model.layers") is None
    assert layer_of("vision.model.layers.3.weight", "model.layers") is None
    assert coefficient(0.25, 0.5, 0, 1) == 0.75


def test_greedy_soup_of_vectors(vectors: Any) -> None:
    for case in load(vectors, "soups*.npz"):
        models, target = case["models"].astype(np.float64), case["target"].astype(np.float64)

        def score(members: list[int], m: Any = models, t: Any = target) -> float:
            return -float(((m[members].mean(axis=0) - t) ** 2).sum())

        alone = [score([i]) for i in range(len(models))]
        np.testing.assert_allclose(alone, case["scores"], rtol=1e-6)
        members, tried = soups.greedily(alone, score)
        assert members == case["greedy_members"].tolist()
        np.testing.assert_allclose(tried, case["candidate_scores"], rtol=1e-6)
        np.testing.assert_allclose(models[members].mean(axis=0), case["greedy"], rtol=1e-9)


def test_a_candidate_that_only_equals_is_left_out() -> None:
    assert soups.greedily([1.0, 1.0, 0.5], lambda members: 1.0) == ([0], [1.0, 1.0])


def test_merge(adapter: Any, logits: Any, tmp_path: Path, tokenizer: Any) -> None:
    import torch
    from transformers import AutoTokenizer

    folder = adapter()
    told = merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(folder), rtol=1e-4, atol=1e-4)
    assert told["parameters"] > 0
    saved = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert saved.chat_template == tokenizer.chat_template
    with pytest.raises(RecipeError, match="exists already"):
        merge(folder, tmp_path / "merged")
    with pytest.raises(RecipeError, match="no adapter to merge"):
        merge(tmp_path / "merged", tmp_path / "twice")
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


PATTERNS = {
    "rank_pattern": {"layers.1.self_attn.q_proj": 5},
    "alpha_pattern": {"down_proj": 2},
}


def test_a_soup_of_adapters_is_the_mean_of_their_weights(
    adapter: Any, parameters: Any, logits: Any, tmp_path: Path
) -> None:
    members = [
        adapter(1),
        adapter(2, r=4, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "o_proj"]),
        adapter(3, **PATTERNS),
    ]
    told = soups.uniform(members, tmp_path / "soup")
    assert told["members"] == [str(m) for m in members]
    read = [parameters(m) for m in members]
    close(parameters(tmp_path / "soup"), {k: sum(r[k] for r in read) / 3 for k in read[0]})
    twice = [adapter(1), adapter(1)]
    soups.uniform(twice, tmp_path / "same")
    np.testing.assert_allclose(logits(tmp_path / "same"), logits(twice[0]), rtol=1e-4, atol=1e-4)


def test_a_soup_of_full_weights(full: Any, parameters: Any, tmp_path: Path) -> None:
    members = [full(1), full(2), full(3)]
    soups.uniform(members, tmp_path / "soup")
    read = [parameters(m) for m in members]
    close(parameters(tmp_path / "soup"), {k: sum(r[k] for r in read) / 3 for k in read[0]})


def test_a_greedy_soup_of_folders(adapter: Any, parameters: Any, tmp_path: Path) -> None:
    members = [adapter(1), adapter(2), adapter(3)]
    read = {m: parameters(m) for m in members}
    name = "model.layers.0.self_attn.q_proj.weight"
    target = (read[members[1]][name] + read[members[2]][name]) / 2

    def score(folder: Path) -> float:
        return -float(((parameters(folder)[name] - target) ** 2).sum())

    told = soups.greedy(members, tmp_path / "soup", score)
    assert sorted(told["members"]) == sorted(map(str, members[1:]))
    assert len(told["scores"]) == 3 and len(told["candidates"]) == 2
    assert score(tmp_path / "soup") == pytest.approx(0, abs=1e-9)
    assert [p.name for p in tmp_path.iterdir()] == ["soup"]


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.8), (1.0, 0.0)])
def test_lines(
    request: Any, tiny: Model, parameters: Any, tmp_path: Path, kind: str, alpha: float, beta: float
) -> None:
    folder = request.getfixturevalue(kind)()
    told = lines(folder, tmp_path / "out", base=str(tiny.path), alpha=alpha, beta=beta)
    assert told["first"] == alpha and told["last"] == alpha + beta and told["layers"] == 2
    start, tuned = parameters(tiny.path), parameters(folder)
    kept = {n: alpha + beta if "layers.1." in n else alpha for n in start}
    close(
        parameters(tmp_path / "out"),
        {n: start[n] + kept[n] * (tuned[n] - start[n]) for n in start},
    )
    assert (tmp_path / "out" / "adapter_config.json").exists() == (kind == "adapter")


def test_lines_may_keep_the_head_as_the_last_layer(
    full: Any, tiny: Model, parameters: Any, tmp_path: Path
) -> None:
    folder = full()
    given = {"base": str(tiny.path), "alpha": 0.25, "beta": 0.5}
    lines(folder, tmp_path / "plain", **given)
    lines(folder, tmp_path / "last", **given, head_last=True)
    start, tuned = parameters(tiny.path), parameters(folder)
    plain, last = parameters(tmp_path / "plain"), parameters(tmp_path / "last")
    wanted = start["lm_head.weight"] + 0.75 * (tuned["lm_head.weight"] - start["lm_head.weight"])
    close({"lm_head.weight": last["lm_head.weight"]}, {"lm_head.weight": wanted})
    assert all((plain[n] == last[n]).all() for n in plain if n != "lm_head.weight")
    tied = shutil.copytree(str(tiny.path), tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(RecipeError, match="shares its weights with the embeddings"):
        lines(folder, tmp_path / "no", base=str(tied), alpha=0.25, beta=0.5, head_last=True)


def test_refusals(adapter: Any, full: Any, tiny: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="do not mix"):
        soups.uniform([adapter(1), full(1)], out)
    with pytest.raises(RecipeError, match="is DoRA"):
        soups.uniform([adapter(1, use_dora=True)], out)
    with pytest.raises(RecipeError, match=r"trains .*modules_to_save|trains .* beside"):
        soups.uniform([adapter(1, modules_to_save=["lm_head"])], out)
    with pytest.raises(RecipeError, match="took a part of the base"):
        soups.uniform([adapter(1, init_lora_weights="pissa")], out)
    with pytest.raises(RecipeError, match="neither an adapter nor a model"):
        soups.uniform([tmp_path], out)
    other = adapter(2)
    config = json.loads((other / "adapter_config.json").read_text())
    text = json.dumps({**config, "base_model_name_or_path": "somewhere"})
    (other / "adapter_config.json").write_text(text)
    with pytest.raises(RecipeError, match="different bases"):
        soups.uniform([adapter(1), other], out)
    assert not list(tmp_path.iterdir())


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tamis", *words], capture_output=True, text=True, timeout=300
    )


def test_commands(adapter: Any, tiny: Model, logits: Any, tmp_path: Path) -> None:
    one, two = str(adapter(1)), str(adapter(2))
    rows = tmp_path / "heldout.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"instruction": f"what is {i}?", "output": f"the answer is {i}"}) + "\n"
            for i in range(6)
        )
    )
    given = ["--greedy", "--data", str(rows), "--prompt-style", "chat"]
    given += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "soup"), "--json"]
    done = run("soup", one, two, *given)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["members"][0] == [one, two][int(np.argmax(told["scores"]))]
    assert all(score < 0 for score in told["scores"]) and len(told["candidates"]) == 1
    rest = ["--base", str(tiny.path), "--alpha", "0.5", "--beta", "0.5"]
    done = run("lines", str(tmp_path / "soup"), *rest, "--out", str(tmp_path / "lines"))
    assert done.returncode == 0, done.stderr
    done = run("merge", str(tmp_path / "lines"), "--out", str(tmp_path / "merged"))
    assert done.returncode == 0, done.stderr
    found, want = logits(tmp_path / "merged"), logits(tmp_path / "lines")
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    done = run("soup", one, "--greedy", "--out", str(tmp_path / "x"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--data" in done.stderr
