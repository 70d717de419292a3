"""Scores of sensitivity from gradients, one registered class in each file."""

from .base import SCORES, GradientScore

__all__ = ["SCORES", "GradientScore"]
