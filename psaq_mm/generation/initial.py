"""Old import path of the initial images."""

# old names, removed after the merge
from .bounds import Bounds, channel_bounds
from .starts import STARTS, initial_images

white_noise = initial_images

__all__ = ["STARTS", "Bounds", "channel_bounds", "initial_images", "white_noise"]
