"""Attention to fewer keys and values than queries, in stages."""

from __future__ import annotations

from .case import Case

PYRAMIDS: dict[str, Case] = {}
