"""Every backbone family that an adapter declares, one table a kind of attention."""

from .case import Case
from .hybrids import HYBRIDS
from .plain import PLAIN
from .pyramids import PYRAMIDS
from .timm_models import TIMM
from .windows import WINDOWS

CASES: dict[str, Case] = {**PLAIN, **WINDOWS, **PYRAMIDS, **HYBRIDS, **TIMM}

__all__ = ["CASES", "Case"]
