"""Data-free quantization of vision-transformer detectors and segmentors, as an OpenMMLab plugin."""

from .compat import check_environment

check_environment()

from . import registry  # noqa: E402  (registers the scope; needs what the check above looks for)

__version__ = "0.1.0"
__all__ = ["__version__", "registry"]
