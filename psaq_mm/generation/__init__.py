"""Images for data-free quantization, optimised from noise. Pure torch: nothing of mm*, timm or the rest of the package.

Read in this order: ``tokens`` (what a layer hands over), ``entropy`` (the loss that shapes the images; ``similarity``,
``pairs`` and ``kernel_density`` are its arithmetic), ``prior``, ``augment``, ``optimiser`` (with ``schedule``),
``competition`` (the teacher-student distance) and ``pool``.
"""

from ..errors import GenerationError, NonFiniteLossError
from .augment import RollFlip, View
from .initial import fractal_noise, initial_images, white_noise
from .losses.discrepancy import FeatureDistance
from .losses.entropy import PatchSimilarityEntropy, similarity_entropy
from .losses.prior import ImagePrior, rms_differences, v1_tv
from .optimizer import SampleOptimiser
from .pool import ImageStore, SamplePool, image_bytes
from .schedule import cosine_with_warmup
from .tokens import AttentionTokens

__all__ = [
    "AttentionTokens",
    "FeatureDistance",
    "GenerationError",
    "ImagePrior",
    "ImageStore",
    "NonFiniteLossError",
    "PatchSimilarityEntropy",
    "RollFlip",
    "SampleOptimiser",
    "SamplePool",
    "image_bytes",
    "View",
    "cosine_with_warmup",
    "fractal_noise",
    "initial_images",
    "rms_differences",
    "similarity_entropy",
    "v1_tv",
    "white_noise",
]
