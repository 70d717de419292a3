"""Image generation for data-free quantization, in plain torch: the losses and the optimisation of images.

The three equations of the paper are in one file each: :mod:`.losses.entropy` (``L_PSE``), :mod:`.losses.prior`
(``L_TV``) and :mod:`.losses.discrepancy` (D). :mod:`.tokens` defines their input, :mod:`.starts` the initial images,
:mod:`.optimizer` the steps on the pixels and :mod:`.pool` the memory of finished images. A new entropy, distance or
initial image is a registered class in a file of its own, see :mod:`psaq_mm.utils.registry`.
"""

from ..errors import GenerationError, NonFiniteLossError
from .augment import RandomCrops, RollFlip, View
from .losses.discrepancy import Discrepancy
from .losses.entropy import PatchSimilarityEntropy
from .losses.prior import ImagePrior, rms_differences
from .optimizer import ImageOptimizer
from .pool import ImageStore, SamplePool
from .schedule import cosine_with_warmup
from .starts import initial_images
from .tokens import AttentionTokens

__all__ = [
    "AttentionTokens",
    "Discrepancy",
    "GenerationError",
    "ImageOptimizer",
    "ImagePrior",
    "ImageStore",
    "NonFiniteLossError",
    "PatchSimilarityEntropy",
    "RandomCrops",
    "RollFlip",
    "SamplePool",
    "View",
    "cosine_with_warmup",
    "initial_images",
    "rms_differences",
]
