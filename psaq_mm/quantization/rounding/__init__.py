"""Rounding methods: how the weights of a calibrated model are put on their grids.

One module per method. A new one is a module in this folder with a subclass of :class:`Rounding` that is decorated with
``@register_rounding('name')``; every module here is imported at the first look-up.
"""

from .base import ROUNDINGS, Rounding, make_rounding, register_rounding
from .gptq import GPTQRounding, collect_hessians, gptq, quantized_linears, round_weights
from .nearest import NearestRounding

__all__ = [
    "ROUNDINGS",
    "GPTQRounding",
    "NearestRounding",
    "Rounding",
    "collect_hessians",
    "gptq",
    "make_rounding",
    "quantized_linears",
    "register_rounding",
    "round_weights",
]
