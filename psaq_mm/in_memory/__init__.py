"""The API for models in memory, without a config file and without a runner."""

from .analyze import analyze_model
from .files import load_model, save_model
from .models import TimmModel
from .quantize import quantize_model

__all__ = ["TimmModel", "analyze_model", "load_model", "quantize_model", "save_model"]
