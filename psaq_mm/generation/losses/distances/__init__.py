"""Distances between one level of the teacher's and the student's outputs, one registered class per file."""

from .base import DISTANCES, LevelDistance

__all__ = ["DISTANCES", "LevelDistance"]
