"""Building scorers by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import RecipeError
from tamis.recipe import Model
from tamis.scoring import registry


def build(name: str, model: Any = None, **options: Any) -> Any:
    return registry.build(name, model=model, options=options, device="cpu")


def test_every_scorer_describes_itself() -> None:
    assert {"embed", "length", "tokens", "nll", "perplexity", "ifd", "el2n", "hidden"} < set(
        registry.names()
    )
    for name in registry.names():
        about = registry.describe(name)
        assert set(about) == {"sentence", "needs", "view", "cost", "avoid"}
        assert all(about.values())


# What reads all of a text, however long it is, and what is defined for every row.
WHOLE = {"length", "keywords", "heuristics", "pii", "lang", "contamination"}
WHOLE |= {"duplicates_exact", "duplicates_minhash"}
ALWAYS = {"length", "pii", "tags", "metadata", "keywords"}


@pytest.mark.parametrize("name", registry.names())
def test_what_was_not_read_and_what_is_undefined_is_told(name: str) -> None:
    kind = registry._kind(name)
    view = registry.describe(name)["view"]
    options = {f.name: f.default for f in dataclasses.fields(kind)}
    assert ("option view" in view) == ("view" in options)
    assert "view" not in options or view.startswith(str(options["view"]))
    reads = not view.startswith("none")
    assert ("cut" in kind.fields) == (reads and name not in WHOLE)
    assert ("reason" in kind.fields) == (name not in ALWAYS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenght", {}, "did you mean length"),
        ("embed", {"veiw": "all"}, "did you mean view"),
        ("embed", {"view": "question"}, "view='question'"),
        ("embed", {"normalise": "yes"}, "normalise='yes'"),
        ("length", {"unit": "words"}, "it has no options"),
        ("nll", {}, "needs a model"),
    ],
)
def test_wrong_names_options_and_values(name: str, options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(name, **options)


def test_models_are_checked_before_any_work(tmp_path: Path, tiny_lm: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="no model folder"):
        build("nll", Model(path=str(tmp_path / "gone"), prompt_style="plain"))
    with pytest.raises(RecipeError, match="no entry of models"):
        build("ifd", "some/hub-id")
    with pytest.raises(RecipeError, match="takes no model"):
        build("length", "some/hub-id")
    good = Model(path=str(tiny_lm()), prompt_style="plain")
    with pytest.raises(RecipeError, match="200 is above the 128"):
        build("tokens", good, max_length=200)


def test_building_loads_no_weights(
    tiny_lm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def refuse(*args: Any, **given: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    model = Model(path=str(tiny_lm()), prompt_style="plain")
    scorers = {name: build(name, model) for name in ("nll", "perplexity", "ifd", "tokens")}
    assert len(registry.group(scorers)) == 2
