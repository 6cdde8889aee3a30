"""What a step minimises: one objective a file, found by name."""

from tamis.trainer.objectives.base import Course, Objective, course
from tamis.trainer.objectives.registry import build, describe, get, names

__all__ = ["Course", "Objective", "build", "course", "describe", "get", "names"]
