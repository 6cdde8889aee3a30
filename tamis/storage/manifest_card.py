"""What a manifest says to other trainers: dataset card, LLaMA-Factory's and axolotl's configs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.storage import manifest_consumers

# Names of licences that the hub's dataset cards know and that instruction data often carries.
_LICENCES = {
    "apache-2.0",
    "mit",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-sa-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "odc-by",
    "bsd-3-clause",
    "openrail",
}


def dataset_info(name: str, train_files: Sequence[str], *, alpaca: bool) -> dict[str, Any]:
    """The entries of LLaMA-Factory's dataset_info.json: one a shard, its messages; and the alpaca
    columns under `<name>_alpaca` when all rows are single-turn."""
    entries: dict[str, Any] = {}
    for i, file in enumerate(train_files):
        suffix = f"_{i:05d}" if len(train_files) > 1 else ""
        entries[name + suffix] = {
            "file_name": file,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
        if alpaca:
            entries[f"{name}_alpaca{suffix}"] = {
                "file_name": file,
                "columns": {
                    "prompt": "instruction",
                    "query": "input",
                    "response": "output",
                    "system": "system",
                },
            }
    return entries


def axolotl(train_files: Sequence[str], *, marked: bool) -> str:
    """The data part of an axolotl config, as YAML; `marked` when messages say by `train` whether
    they are trained."""
    training = "    message_field_training: train\n" if marked else ""
    files = "\n".join(f"      - {json.dumps(file)}" for file in train_files)
    return f"""# Paths are relative to this folder: start axolotl here, or make them absolute.
datasets:
  - path: data
    ds_type: parquet
    data_files:
{files}
    type: chat_template
    field_messages: messages
    message_property_mappings:
      role: role
      content: content
    roles_to_train: [assistant]
    train_on_eos: turn
{training}chat_template: tokenizer_default
"""


def readme(manifest: Mapping[str, Any], licences: Sequence[str]) -> str:
    """The dataset card: a README with YAML front matter that the hub and `datasets` read."""
    splits = {f["split"]: f["split"] for f in manifest["files"]}
    paths = "\n".join(f"  - split: {s}\n    path: data/{s}-*.parquet" for s in splits)
    counts = {s: sum(f["n_rows"] for f in manifest["files"] if f["split"] == s) for s in splits}
    selection = manifest["selection"]
    rows = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    weights = "and no weights" if manifest["weight_column"] is None else "and a weight a row"
    return f"""---
{_licence(licences)}pretty_name: {json.dumps(manifest["name"])}
tags:
- instruction-tuning
- tamis
size_categories:
- {_size(sum(counts.values()))}
configs:
- config_name: default
  data_files:
{paths}
---
# {manifest["name"]}

A subset of instruction data chosen by tamis: {rows} rows {weights}.

- method: {selection.get("method") or "none"}, {_inline(selection.get("params"))}
- budget: {_inline(selection.get("budget"))}, seed {manifest["seed"]}
- sources: {", ".join(s["name"] for s in selection.get("sources", [])) or "unknown"}
- licences of the rows: {", ".join(licences) or "not given"}
- content hash: `{manifest["content_hash"]}`

{_others(manifest)}`messages` is the conversation; `instruction`, `input`, `output` and `system`
repeat it for rows of one turn. `manifest.json` says how the rows were chosen and holds a hash of
every file.
"""


def _others(manifest: Mapping[str, Any]) -> str:
    lines = manifest_consumers.told(manifest["other_trainers"])
    return "".join(f"- {line}\n" for line in lines) + "\n" if lines else ""


def _licence(licences: Sequence[str]) -> str:
    if len(licences) == 1 and licences[0].lower() in _LICENCES:
        return f"license: {licences[0].lower()}\n"
    return "license: other\n" if licences else ""


def _inline(value: Any) -> str:
    return f"`{json.dumps(value, sort_keys=True)}`" if value else "no options"


def _size(rows: int) -> str:
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M" if rows < 1e7 else "10M<n<100M"
