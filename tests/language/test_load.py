"""Loading and naming models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tamis.errors import RecipeError, TamisError
from tamis.language import load
from tamis.recipe import Model


def model(folder: Path, **given: object) -> Model:
    return Model(path=str(folder), prompt_style=given.pop("prompt_style", "plain"), **given)


def test_identity_is_of_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("notes do not matter")
    first = load.identity(model(folder))
    assert load.identity(model(copy)) == first
    assert str(folder) not in json.dumps(first)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_identity_follows_every_file_that_matters(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    before = load.identity(model(copy))
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content + b"\n")
    assert load.identity(model(copy)) != before


def test_identity_follows_the_settings(folder: Path) -> None:
    first = load.identity(model(folder))
    for changed in ({"dtype": "bfloat16"}, {"max_length": 64}, {"prompt_style": "chat"}):
        assert load.identity(model(folder, **changed)) != first
    # The limit the config names and the same limit spelt out are the same.
    assert load.identity(model(folder, max_length=128)) == first


def test_dtype_is_ours_not_the_checkpoint_s(folder: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    loaded = load.load_model(model(tmp_path), "cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    loaded = load.load_model(model(folder, dtype="bfloat16"), "cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_adapter_changes_values_and_identity(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    tuned = get_peft_model(load.load_model(model(folder), "cpu"), config).eval()
    tuned.save_pretrained(tmp_path)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        wanted = tuned(input_ids=ids).logits
        loaded = load.load_model(model(folder, adapter=str(tmp_path)), "cpu")
        torch.testing.assert_close(loaded(input_ids=ids).logits, wanted)
        base = load.load_model(model(folder), "cpu")(input_ids=ids).logits
    assert (base - wanted).abs().max() > 1e-3
    assert load.identity(model(folder, adapter=str(tmp_path))) != load.identity(model(folder))


def test_cut_off(folder: Path) -> None:
    assert load.max_length(model(folder)) == 128
    assert load.max_length(model(folder, max_length=50)) == 50
    with pytest.raises(RecipeError, match="129 is above the 128"):
        load.max_length(model(folder, max_length=129))


def test_clear_errors(tiny_lm: Callable[..., Path], tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RecipeError, match="no model folder"):
        load.check(model(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match=r"no config\.json"):
        load.check(model(tmp_path))
    with pytest.raises(RecipeError, match="no PEFT adapter"):
        load.check(model(folder, adapter=str(tmp_path)))
    with pytest.raises(RecipeError, match="could not be resolved"):
        load.check(Model(hub="nobody/no-such-model", prompt_style="plain"))
    bare = tiny_lm(template=False)
    with pytest.raises(TamisError, match="no chat template"):
        load.load_tokenizer(model(bare, prompt_style="chat"))
    assert load.load_tokenizer(model(bare)).eos_token_id == 0


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(TamisError, match="safetensors"):
        load.load_model(model(copy), "cpu")
