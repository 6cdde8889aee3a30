"""What single methods of peft promise: losses with virtual tokens, beginnings, ranks, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import RecipeError
from tamis.language.load import load_model, vocabulary
from tamis.recipe import Model
from tamis.trainer import methods
from tamis.trainer.data import Examples, prepare
from tamis.trainer.loss import terms_forward
from tamis.trainer.methods import Context, Method
from tamis.trainer.pack import padded


@pytest.fixture(scope="module")
def examples(tokenizer: Any, table: Callable[..., pa.Table], sums: Any) -> Examples:
    return prepare(table(sums), tokenizer, prompt_style="chat", max_length=256)


@pytest.fixture
def made(tiny: Model, examples: Examples) -> Callable[..., tuple[Any, Any, Method]]:
    """A method upon the tiny model: the model, what is trained, the method."""

    def start(name: str, *, steps: int = 8, **options: Any) -> tuple[Any, Any, Method]:
        import torch

        torch.manual_seed(0)
        lm = load_model(tiny, "cpu").requires_grad_(False)
        lm.forward = terms_forward(lm, vocabulary(tiny))

        def batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
            for i in range(0, rows, at_once):
                batch = padded(examples, np.arange(i, min(i + at_once, rows)))
                yield {n: batch[n] for n in ("input_ids", "labels", "loss_weights")}

        method = methods.build(name, options)
        return lm, method.prepare(lm, Context(steps, 0, 1e-3, 3, "cpu", batches, 180)), method

    return start


def perturb(trained: Any) -> None:
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("name", ["prompt", "prefix", "p_tuning", "lora", "ia3"])
def test_the_loss_is_that_of_peft(made: Any, examples: Examples, name: str) -> None:
    """Rows of different length, weighted: our terms against the model's own loss and logits."""
    import torch

    options = {} if name in {"lora", "ia3"} else {"tokens": 3}
    lm, trained, _ = made(name, **options)
    perturb(trained)
    trained.eval()
    batch = padded(examples, np.array([0, 3, 5]))
    batch["loss_weights"] *= torch.tensor([[1.0], [0.5], [2.0]])
    with torch.no_grad():
        terms = trained(**batch)
        del lm.forward
        mask = torch.ones_like(batch["input_ids"])
        plain = trained(input_ids=batch["input_ids"], labels=batch["labels"], attention_mask=mask)
        logits = plain.logits[:, -mask.shape[1] :]
        logp = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        labels = batch["labels"][:, 1:]
        rows, places = (labels != -100).nonzero(as_tuple=True)
        wanted = -logp[rows, places, labels[rows, places]]
    assert torch.allclose(terms["nll"], wanted, atol=1e-5)
    assert float(terms["nll"].mean()) == pytest.approx(float(plain.loss), rel=1e-5)
    assert terms["weights"].tolist() == [[1.0, 0.5, 2.0][i] for i in rows.tolist()]
    assert (terms["row"] == rows).all()


def test_the_loss_of_cpt_is_that_of_peft(made: Any, examples: Examples) -> None:
    """peft draws one mean over the answers of row and examples; ours are two terms of it."""
    import torch

    lm, trained, method = made("cpt", examples=2, decay=0.5, epsilon=50.0)
    perturb(trained)
    trained.eval()
    config = trained.peft_config["default"]
    config.opt_weighted_loss_type, config.opt_loss_decay_factor = "decay", 0.5
    batch = padded(examples, np.array([5]))
    counts = examples.targets()[:2]
    with torch.no_grad():
        own, shown = trained(**batch)["nll"], method.penalty()
        alone = method.trained.get_prompt(batch_size=1)
        del lm.forward
        plain = type(trained).forward(
            trained, input_ids=batch["input_ids"], labels=batch["labels"].clone()
        )
        logp = torch.log_softmax(lm(inputs_embeds=alone).logits[0, :-1].float(), dim=-1)
    ids = np.concatenate([examples.row(i)[0] for i in range(2)])[1:]
    answers = np.concatenate([examples.row(i)[1] for i in range(2)])[1:] != -100
    nll = -logp[torch.arange(len(ids)), torch.from_numpy(ids)].numpy()[answers]
    sums = nll[: counts[0]].sum(), nll[counts[0] :].sum()
    assert float(shown) == pytest.approx(0.25 * sums[0] / counts[0] + 0.5 * sums[1] / counts[1])
    mean = (float(own.sum()) + 0.25 * sums[0] + 0.5 * sums[1]) / (len(own) + counts.sum())
    assert float(plain.loss) == pytest.approx(mean, rel=1e-5)


def test_cpt_stays_near_its_examples_and_leaves_answers(made: Any, examples: Examples) -> None:
    import torch

    lm, trained, method = made("cpt", examples=2, epsilon=0.5)
    width = lm.config.hidden_size
    delta = trained.prompt_encoder["default"].delta_embedding.weight
    answers = np.concatenate([examples.row(i)[1] for i in range(2)]) != -100
    (gradient,) = torch.autograd.grad(method.penalty(), [delta])
    delta.grad = gradient
    trained(**padded(examples, np.array([3])))["nll"].mean().backward()
    torch.optim.SGD([delta], lr=1e3).step()
    prompt = trained.get_prompt(batch_size=1)[0]
    ids = torch.from_numpy(np.concatenate([examples.row(i)[0] for i in range(2)]))
    moved = (prompt - lm.get_input_embeddings()(ids)).norm(dim=1).detach().numpy()
    assert (moved[answers] == 0).all() and (moved[~answers] > 0).any()
    assert moved.max() == pytest.approx(0.5 * (width / 2048) ** 0.5, rel=1e-4)
    assert method.trainable(trained) == width * (~answers).sum()


@pytest.mark.parametrize("name", ["prompt", "prefix", "p_tuning", "cpt"])
def test_virtual_tokens_beyond_the_models_limit_are_refused(made: Any, name: str) -> None:
    options = {"examples": 4} if name == "cpt" else {"tokens": 77}
    with pytest.raises(RecipeError, match="limit of 256: lower tune"):
        made(name, **options)


def test_a_shared_head_moves_with_trained_tokens(
    made: Any, tiny: Model, tmp_path: Any, examples: Examples
) -> None:
    """Where the output layer shares the embeddings, the loss sees both move."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny.path)
    plain.config.tie_word_embeddings = True
    plain.tie_weights()
    plain.save_pretrained(tmp_path)
    shared = tiny.model_copy(update={"path": str(tmp_path)})
    lm = load_model(shared, "cpu").requires_grad_(False)
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    lm.forward = terms_forward(lm, len(lm.lm_head.weight))
    method = methods.build("trainable_tokens", {"ids": [40, 41]})
    trained = method.prepare(lm, Context(1, 0, 1e-3, 3, "cpu", lambda rows, at_once: iter(()), 0))
    perturb(trained)
    trained.eval()
    batch = padded(examples, np.array([0, 3]))
    with torch.no_grad():
        ours = trained(**batch)["nll"].mean()
        del lm.forward
        wanted = trained(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert float(ours) == pytest.approx(float(wanted), rel=1e-5)


def test_eva_gives_ranks_to_layers_and_keeps_their_sum(made: Any) -> None:
    _, trained, method = made("lora", rank=4, init="eva", init_rows=16)
    ranks = method.facts()["ranks"]
    assert sum(ranks.values()) == 4 * 14 and len(set(ranks.values())) > 1
    assert trained.peft_config["default"].rank_pattern


def test_data_driven_beginnings_depend_on_the_rows(made: Any) -> None:
    for init in ("eva", "corda", "lora_ga"):
        few, many = (
            made("lora", rank=4, init=init, init_rows=rows)[1].state_dict() for rows in (4, 24)
        )
        a = [n for n in few if ".lora_A." in n and few[n].shape == many.get(n, few[n]).shape]
        assert a and any(not (few[n] == many[n]).all() for n in a), init


def test_a_begun_adapter_goes_on_from_the_start_it_was_saved_with(made: Any) -> None:
    """Weights that gave up one product are made those that gave up another."""
    import torch

    lm, _, method = made("lora", rank=4, init="lora_ga", init_rows=8)
    other, _, source = made("lora", rank=4, init="lora_ga", init_rows=32)
    tensors, values = source.state_dict()
    method.load_state_dict(tensors, values)
    for (name, one), (_, two) in zip(lm.named_parameters(), other.named_parameters(), strict=True):
        if "base_layer" in name:
            assert torch.allclose(one, two, atol=1e-6), name
    assert all(torch.equal(method.state_dict()[0][n], t) for n, t in tensors.items())
    before = [p.clone() for p in lm.parameters()]
    method.load_state_dict(tensors, values)
    assert all(torch.equal(a, b) for a, b in zip(before, lm.parameters(), strict=True))


def test_lora_plus_and_lora_fa(made: Any) -> None:
    _, trained, method = made("lora", rank=4, plus_ratio=8.0)
    slow, fast = method.parameters(trained, 0.01, 0.1)
    named = {id(p): n for n, p in trained.named_parameters()}
    assert slow["lr"] == 0.01 and fast["lr"] == 0.08
    assert all(".lora_A." in named[id(p)] for p in slow["params"])
    assert all(".lora_B." in named[id(p)] for p in fast["params"])
    assert len(slow["params"]) == len(fast["params"]) == 14
    _, trained, _ = made("lora", rank=4, freeze_a=True)
    assert all(".lora_B." in n for n, p in trained.named_parameters() if p.requires_grad)


def test_layers_and_targets(made: Any) -> None:
    _, trained, _ = made("lora", rank=4, layers=[1], targets=["q_proj"])
    names = [n for n, p in trained.named_parameters() if p.requires_grad]
    assert len(names) == 2 and all("layers.1.self_attn.q_proj" in n for n in names)
    with pytest.raises(RecipeError, match="output layer 'lm_head'"):
        made("shira", targets=["lm_head"])
    with pytest.raises(RecipeError, match="vocabulary of 3"):
        made("trainable_tokens", ids=[100_000])


def test_adalora_ends_at_its_budget(made: Any, examples: Examples) -> None:
    """Ranks fall to the target, the cut entries stay 0, and the least important ones are cut."""
    import torch

    _, trained, method = made("adalora", rank=4, target_rank=2, first=0.0, last=0.25)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.01)
    perturb(trained)
    for step in range(8):
        optimizer.zero_grad()
        trained(**padded(examples, np.arange(4 * step, 4 * step + 4)))["nll"].mean().backward()
        optimizer.step()
        method.step_end(step)
    ranks = method.facts()["ranks"]
    assert len(ranks) == 14 and sum(ranks.values()) == 2 * 14
    kept = [int((p != 0).sum()) for n, p in trained.named_parameters() if ".lora_E." in n]
    assert sum(kept) == 2 * 14 and sorted(kept) == sorted(ranks.values())


def test_the_term_of_adalora_is_that_of_peft(made: Any) -> None:
    """Peft adds its own to a loss the model returns; ours is the same number."""
    import torch

    lm, trained, method = made("adalora", rank=4, target_rank=2, orthogonality=0.7)
    perturb(trained)
    del lm.forward
    ids = torch.arange(5, 25)[None]
    trained.eval()
    with torch.no_grad():
        whole = float(trained(input_ids=ids, labels=ids).loss)
        trained.peft_config["default"].orth_reg_weight = 1e-12
        without = float(trained(input_ids=ids, labels=ids).loss)
    assert float(method.penalty()) == pytest.approx(whole - without, rel=1e-4)


def test_adalora_needs_steps(made: Any) -> None:
    with pytest.raises(RecipeError, match="the run has 2 steps, at least 3"):
        made("adalora", steps=2)


def test_four_bits_need_a_gpu_and_their_package(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before any work, the GPU first: a package does not help without one."""
    from tamis.errors import MissingPackage
    from tamis.pipelines import plan
    from tamis.recipe import build
    from tamis.storage.artifact import Store
    from tamis.trainer.methods import lora_init

    recipe = build(
        {
            "sources": {"a": {"path": "rows.jsonl"}},
            "models": {"lm": {"path": tiny.path, "prompt_style": "chat"}},
            "select": {"method": "random", "budget": {"rows": 3}},
            "tune": {"model": "lm", "options": {"quantize": "4bit"}},
        },
        where="test",
    )
    with pytest.raises(RecipeError, match="needs a GPU; this run is on the CPU"):
        plan.check(recipe, Store(tmp_path), "cpu")
    monkeypatch.setattr(lora_init, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install bitsandbytes"):
        plan.check(recipe, Store(tmp_path), "cuda")
    monkeypatch.setattr(lora_init, "find_spec", lambda name: object())
    plan.check(recipe, Store(tmp_path), "cuda")


def test_eva_reads_batches_with_answers_enough() -> None:
    """Peft leaves out a batch with fewer answer tokens than it wants directions, for ever."""
    import torch

    from tamis.trainer.methods.lora_init import answered

    def batches(rows: int, at_once: int) -> Iterator[dict[str, Any]]:
        for i in range(0, rows, at_once):
            labels = torch.full((min(at_once, rows - i), 9), -100)
            labels[:, 6:] = 5  # three tokens a row
            yield {"labels": labels}

    context = Context(8, 0, 1e-3, 3, "cpu", batches, 9)
    assert [len(b["labels"]) for b in answered(context, 12, 1)] == [4, 4, 4]
    assert [len(b["labels"]) for b in answered(context, 33, 6)] == [16, 16]
    assert [len(b["labels"]) for b in answered(context, 36, 32)] == [36]
    with pytest.raises(
        RecipeError, match="32 tokens of answers at once, and the first 8 rows have 24"
    ):
        answered(context, 8, 32)
