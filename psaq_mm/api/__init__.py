"""The Python API: quantize a model without data, save it, load it, export it, and find its sensitive layers."""

from .analyze import analyze
from .files import export, load
from .quantize import quantize
from .results import Result, Samples

__all__ = ["Result", "Samples", "analyze", "export", "load", "quantize"]
