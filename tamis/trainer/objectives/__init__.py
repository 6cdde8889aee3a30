"""What a step minimises: one objective a file, found by name."""

from tamis.trainer.objectives.base import Course, Objective, course
from tamis.trainer.objectives.registry import build, describe, get, names
from tamis.trainer.objectives.teacher import check_teacher

__all__ = [
    "Course",
    "Objective",
    "build",
    "check_teacher",
    "course",
    "describe",
    "get",
    "names",
]
