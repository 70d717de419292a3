"""What is compared between teacher and student, and what is run to calibrate.

``levels`` holds the levels and all models but detectors; ``two_stage`` and ``detectors`` those of mmdet; ``reach``
finds layers that calibration does not reach, and ``pairs`` gives features and logits together.
"""

from .detectors import detector_outputs, one_stage_logits
from .levels import FEATURE_LEVELS, OutputFunction, backbone_outputs, calibration_function, output_function
from .pairs import FeaturesAndLogits
from .reach import unreached
from .two_stage import Boxes, CalibrationOutputs, DetectorLogits

__all__ = [
    "FEATURE_LEVELS",
    "Boxes",
    "CalibrationOutputs",
    "DetectorLogits",
    "FeaturesAndLogits",
    "OutputFunction",
    "backbone_outputs",
    "calibration_function",
    "detector_outputs",
    "one_stage_logits",
    "output_function",
    "unreached",
]
