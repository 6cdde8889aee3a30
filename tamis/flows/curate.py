"""The chain as a Prefect flow: one task a stage, on a schedule if asked.

Our artefacts decide what is done: tasks are not cached by Prefect, and a run that was killed goes
on from the store whatever Prefect's state says. Tasks pass keys, never tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.pipelines.context import Context, Outcome
    from tamis.pipelines.run import Summary

# Prefect reads its settings when it is imported. The analytics insert of a fresh ephemeral server
# prints a long traceback; a slow machine needs more than the 20 s it is given to start.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.deployments.runner import EntrypointType  # noqa: E402


@task(cache_policy=NO_CACHE, task_run_name="{stage}")
def stage_task(
    stage: str, recipe: Mapping[str, Any], store: str | None, keys: Mapping[str, str]
) -> Outcome:
    """Run one stage of a recipe (as plain values)."""
    from tamis.pipelines.stages import STAGES

    return STAGES[stage](_context(recipe, store), keys)


@flow(name="tamis-curate", validate_parameters=False)
def curate(recipe: dict[str, Any], store: str | None = None, until: str | None = None) -> Summary:
    """Run the stages of a recipe (as plain values) in order, one task each."""
    from tamis.pipelines.run import run

    def as_task(stage: str, keys: Mapping[str, str]) -> Outcome:
        return stage_task(stage, recipe, store, dict(keys))

    return run(_context(recipe, store), until=until, runner=as_task)


def _context(recipe: Mapping[str, Any], store: str | None) -> Context:
    from tamis import console
    from tamis.pipelines.run import context
    from tamis.recipe import Recipe

    loaded = Recipe.model_validate(recipe)
    return context(loaded, say=console.say, progress=console.progress, store=store)


@flow(name="tamis-scheduled", validate_parameters=False)
def curate_file(recipe: str, settings: list[str], store: str | None = None) -> Summary:
    """Read a recipe file and run it: what a schedule calls, so that edits count next time."""
    from tamis.recipe import load

    return curate(load(recipe, settings).model_dump(), store)


def serve(
    recipe: str,
    settings: list[str],
    *,
    store: str | None,
    cron: str | None,
    interval: int | None,
    name: str | None,
) -> None:
    """Serve a recipe as a scheduled flow until stopped; needs a running Prefect server."""
    from tamis.errors import RecipeError
    from tamis.recipe import load

    loaded = load(recipe, settings)  # a broken recipe is told now, not at night
    if not os.environ.get("PREFECT_API_URL"):
        raise RecipeError(
            "tamis schedule needs a running Prefect server: start one with prefect server start "
            "and set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api"
        )
    curate_file.serve(
        name=name or loaded.name,
        cron=cron,
        interval=None if interval is None else timedelta(seconds=interval),
        parameters={"recipe": os.path.abspath(recipe), "settings": settings, "store": store},
        limit=1,
        # By name: a flow file run by its path would look up imports beside itself.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
