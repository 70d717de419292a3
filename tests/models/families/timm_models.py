"""Models of timm."""

from __future__ import annotations

from .case import Case

TIMM: dict[str, Case] = {}
