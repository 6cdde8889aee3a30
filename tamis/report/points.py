"""The embedding map as the page's script reads it: one JSON block, numbers as base64."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from markupsafe import Markup

from tamis.report.parts import EmbeddingMap
from tamis.report.text import shown

LONGEST = 300  # characters of a row's text


def block(data: EmbeddingMap) -> Markup:
    """The JSON of a map, fit to stand inside a script element.

    Arrays are little-endian float32 or uint16 in base64; texts are cut at 300 characters. Nothing
    in it can end the element: `<`, `>` and `&` are written as escapes.
    """
    told: dict[str, Any] = {
        "x": _packed(data.x, "<f4"),
        "y": _packed(data.y, "<f4"),
        "kept": _packed(data.kept, "<u2"),
        "groups": {
            "source": _group(data.source, data.sources),
            "cluster": _group(data.cluster, data.clusters),
            "reason": _group(data.reason, data.reasons),
        },
        "signals": [
            {"name": shown(name), "values": _packed(values, "<f4")}
            for name, values in data.signals.items()
        ],
        "ids": [shown(name) for name in data.ids],
        "texts": [
            shown(text[:LONGEST]) + (" …" if len(text) > LONGEST else "") for text in data.texts
        ],
    }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    # Inside texts only: JSON's own marks are none of these.
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def _group(numbers: Any, names: Any) -> dict[str, Any]:
    return {"values": _packed(numbers, "<u2"), "names": [shown(name) for name in names]}


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()
