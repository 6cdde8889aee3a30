"""A tiny model that reads long prompts, and a tiny classifier for inference."""

import json

import pytest

from tamis.recipe import Model


@pytest.fixture(scope="session")
def long_lm(tiny_lm):
    """The random model of bytes with 2,048 positions (rotary, so no weight depends on them)."""

    def make(style="plain", **given):
        folder = tiny_lm(**given)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 2048
        (folder / "config.json").write_text(json.dumps(config))
        return Model(path=str(folder), prompt_style=style)

    return make
