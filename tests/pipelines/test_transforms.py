"""Transforms in a recipe: they read other scores and their sources, and filters read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tamis import recipe
from tamis.pipelines.run import context, run
from tamis.storage.artifact import Store
from tamis.storage.catalogue import OpenStore


def test_ranks_of_scores_within_sources_filter_rows(tmp_path: Path, no_progress: Any) -> None:
    sources = {}
    for name, unit in (("short", 1), ("long", 50)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"instruction": f"{name} {i}", "output": "x" * unit * (i + 1)} for i in range(30)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sources[name] = {"path": str(path)}
    place = {"scorer": "rank", "options": {"column": "length.answer_chars", "within": ["source"]}}
    scores = {
        "length": {},
        "place": place,
        "twice": {"scorer": "combine", "options": {"columns": {"place.value": 2}}},
        "fair": {
            "scorer": "deconfound",
            "options": {
                "column": "length.answer_chars",
                "method": "fixed_effects",
                "group": ["source"],
            },
        },
        "odd": {"scorer": "robust_z", "options": {"column": "fair.residual"}},
    }
    content = {
        "store": str(tmp_path / "store"),
        "sources": sources,
        "scores": scores,
        "filters": [{"column": "place.value", "max": 0.2}],
        "select": {"method": "top", "options": {"column": "twice.value"}, "budget": {"rows": 99}},
    }
    asked = recipe.build(content, where="test")
    done = run(context(asked, say=lambda _: None, progress=no_progress), until="select")
    chosen = next(key for name, key in done.keys.items() if name.endswith("selection"))
    store = OpenStore(Store(tmp_path / "store"))
    kept = store.sql(
        "select source, count(*) as n, max(length.answer_chars) as most, max(twice.value) as t "
        "from selections join signals using (id) where kept and selection = $chosen "
        "group by source order by source",
        {"chosen": chosen},
    ).to_pylist()
    assert kept == [
        {"source": "long", "n": 6, "most": 300, "t": 0.4},
        {"source": "short", "n": 6, "most": 6, "t": 0.4},
    ]
    means = store.sql("select source, avg(fair.residual) as m from signals group by source")
    assert all(abs(m) < 1e-9 for m in means.column("m").to_pylist())
