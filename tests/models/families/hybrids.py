"""Convolutions and attention."""

from __future__ import annotations

from .case import Case

HYBRIDS: dict[str, Case] = {}
