"""Estimators of the entropy of patch similarities, one registered class per file."""

from .base import ENTROPIES, EntropyVariant

__all__ = ["ENTROPIES", "EntropyVariant"]
