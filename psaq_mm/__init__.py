"""Data-free quantization of vision-transformer detectors, segmentors and classifiers, as an OpenMMLab plugin."""

from .compat import check_environment, name_mmseg_configs

check_environment()
name_mmseg_configs()

from . import registry  # noqa: E402  (registers the scope; needs what the check above looks for)

__version__ = "0.1.0"
__all__ = ["__version__", "registry"]
