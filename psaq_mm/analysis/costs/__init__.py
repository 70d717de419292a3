"""What a budget limits, one registered class in each file."""

from .base import COSTS, FLOAT_BITS, Choice, Cost, Measured, Option

__all__ = ["COSTS", "FLOAT_BITS", "Choice", "Cost", "Measured", "Option"]
