"""The report of a run: one self-contained HTML page made from plain values."""

from tamis.report.data import (
    Compared,
    Composition,
    Histogram,
    Interval,
    News,
    Refined,
    Rejected,
    ReportData,
    Sample,
    Stage,
    Theme,
)
from tamis.report.page import render, write

__all__ = [
    "Compared",
    "Composition",
    "Histogram",
    "Interval",
    "News",
    "Refined",
    "Rejected",
    "ReportData",
    "Sample",
    "Stage",
    "Theme",
    "render",
    "write",
]
