"""The report of a run: one self-contained HTML page made from plain values."""

from tamis.report.data import ReportData
from tamis.report.methods import Contest, Methods, Overlap, Winner
from tamis.report.page import render, write
from tamis.report.parts import (
    Box,
    Compared,
    Composition,
    Coverage,
    Covered,
    Curve,
    Duplicates,
    EmbeddingMap,
    Histogram,
    Interval,
    Line,
    Member,
    News,
    Refined,
    Rejected,
    Sample,
    Stage,
    Theme,
    Training,
)
from tamis.report.verdict import label

__all__ = [
    "Box",
    "Compared",
    "Composition",
    "Contest",
    "Coverage",
    "Covered",
    "Curve",
    "Duplicates",
    "EmbeddingMap",
    "Histogram",
    "Interval",
    "Line",
    "Member",
    "Methods",
    "News",
    "Overlap",
    "Refined",
    "Rejected",
    "ReportData",
    "Sample",
    "Stage",
    "Theme",
    "Training",
    "Winner",
    "label",
    "render",
    "write",
]
