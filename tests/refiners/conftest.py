"""A tiny model that reads long prompts, and rows for refiners."""

import json

import pytest

from tamis.recipe import Model
from tamis.refiners import base


@pytest.fixture(scope="session")
def lm(tiny_lm):
    folder = tiny_lm(seed=4)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return Model(path=str(folder), prompt_style="plain")


@pytest.fixture
def row():
    def make(question, answer, *more):
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            *more,
        ]
        return base.Row(f"{question}|{answer}", messages, None)

    return make
