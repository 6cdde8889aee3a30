"""The commands that make a new model of tuned ones: merge, soup, lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tamis.commands import common
from tamis.commands.common import JsonOption, StoreOption, StyleOption

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OutOption = Annotated[str, typer.Option("--out", help="Folder of the new model; must be new.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="Folder or hub id; default the one the adapter names.")
]


def merge(
    model: Annotated[str, typer.Argument(help="Folder of an adapter.")],
    out: OutOption,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into the weights of its base: a plain model in float32."""
    from pathlib import Path

    from tamis.trainer.after.merge import merge as merged

    common.print_facts(merged(Path(model), Path(out), base=base), as_json)


def soup(
    models: Annotated[list[str], typer.Argument(help="Folders of tuned models of one base.")],
    out: OutOption,
    greedy: Annotated[bool, typer.Option(help="Keep a model only if it lowers the loss.")] = False,
    data: Annotated[str | None, typer.Option(help="Held-out rows for --greedy.")] = None,
    prompt_style: StyleOption = None,
    base: BaseOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Average tuned models: all of them, or those that lower the held-out loss (--greedy)."""
    from pathlib import Path

    from tamis.errors import RecipeError
    from tamis.trainer.after import soups

    folders = [Path(model) for model in models]
    if not greedy:
        told = soups.uniform(folders, Path(out))
    elif data and prompt_style:
        told = soups.greedy(folders, Path(out), _heldout(data, prompt_style, base, store))
    else:
        raise RecipeError("tamis soup --greedy needs --data, rows held out, and --prompt-style")
    common.print_facts(told, as_json)


def lines(
    model: Annotated[str, typer.Argument(help="Folder of an adapter or of full weights.")],
    out: OutOption,
    base: Annotated[str, typer.Option(help="What it was tuned from: folder or hub id.")],
    alpha: Annotated[float, typer.Option(help="Share of the change kept in the first layer.")],
    beta: Annotated[float, typer.Option(help="What the last layer keeps beyond alpha.")],
    head_last: Annotated[
        bool, typer.Option(help="The head keeps what the last layer does.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Scale what tuning changed layer by layer (LiNeS), to keep what the base knew."""
    from pathlib import Path

    from tamis.trainer.after.lines import lines as scaled

    told = scaled(Path(model), Path(out), base=base, alpha=alpha, beta=beta, head_last=head_last)
    common.print_facts(told, as_json)


def _heldout(data: str, style: str, base: str | None, store: str | None) -> Callable[[Path], float]:
    """The score of a model folder: its token-mean log-probability of held-out rows."""
    from tamis.pipelines.single import evaluate_model
    from tamis.trainer.after import folders

    def score(folder: Path) -> float:
        adapter = folders.is_adapter(folder)
        place = folders.base_of(folder, base) if adapter else str(folder)
        models: dict[str, Any] = common.models(place, style, "float32")
        models["lm"]["adapter"] = str(folder) if adapter else None
        content = {
            "name": "soup",
            "sources": {"heldout": {"path": data}},
            "models": models,
            "tune": {"model": "lm"},
            "evaluate": {"path": data, "max_new_tokens": 0},
        }
        loaded = common.recipe_or_flags(None, None, content)
        return -float(evaluate_model(common.context(loaded, store))["nll"]["value"])

    return score
