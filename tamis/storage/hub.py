"""Rows of a Hugging Face dataset, streamed through `datasets`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from tamis.errors import DataError, TamisError
from tamis.storage import files
from tamis.storage.inputs import expand, sha256_and_bytes
from tamis.storage.readers import START, Mark, Record


@dataclass(frozen=True, slots=True)
class HubInput:
    """A dataset at one commit. `revision` is the commit, or a digest of the files of a local
    folder."""

    dataset: str
    asked: str | None
    revision: str
    split: str

    @property
    def name(self) -> str:
        """NAME@revision, as it stands in `origin`; of a local folder only the last name."""
        name = self.dataset
        if os.path.isdir(name):
            name = os.path.basename(os.path.abspath(name))
        return f"{name}@{self.revision[:12]}"


def find(name: str, split: str) -> HubInput:
    """The dataset `NAME[@revision]`, with its commit looked up. Raises `TamisError` when it cannot
    be reached."""
    dataset, _, asked = (name, "", "") if os.path.isdir(name) else name.partition("@")
    if os.path.isdir(dataset):
        shas = [sha256_and_bytes(file)[0] for file in expand([dataset])]
        return HubInput(dataset, None, files.digest(shas), split)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        found = HfApi().dataset_info(dataset, revision=asked or None)
    except HFValidationError as error:
        raise DataError(f"hf:{name} is no dataset name; expected NAME or NAME@revision") from error
    except (OSError, RuntimeError) as error:
        raise _unreachable(name, error) from error
    return HubInput(dataset, asked or None, str(found.sha or asked), split)


def load(hub: HubInput) -> Any:
    """The dataset as an iterable of rows: the only call of `datasets`."""
    import datasets

    revision = None if os.path.isdir(hub.dataset) else hub.revision
    return datasets.load_dataset(hub.dataset, revision=revision, split=hub.split, streaming=True)


def read(hub: HubInput, start: Mark = START) -> Iterator[Record]:
    """The rows of a dataset after `start`, numbered from 1."""
    from datasets.exceptions import DatasetsError

    row, _ = start
    try:
        rows = load(hub)
        for values in rows.skip(row) if row else rows:
            row += 1
            size = len(orjson.dumps(values, default=str, option=orjson.OPT_NON_STR_KEYS))
            yield row, (row, row), size, values
    except (DatasetsError, pa.ArrowException, OSError, ValueError) as error:
        raise _unreachable(hub.dataset, error) from error
    if row == 0:
        raise DataError(f"hf:{hub.dataset} has no rows in its split {hub.split!r}")


def _unreachable(name: str, error: BaseException) -> TamisError:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return TamisError(
        f"hf:{name} cannot be read: {words}; check the name and the network, or give local files"
    )
