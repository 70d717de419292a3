"""Initial images of the optimisation, one registered class per file."""

from .base import STARTS, ImageStart, initial_images

__all__ = ["STARTS", "ImageStart", "initial_images"]
