"""The algorithm in plain torch: image generation, calibration and the teacher-student cycle."""

from .calibrate import calibrate
from .cycle import CycleSettings, TeacherStudentCycle
from .generate import ImageSource, generate_images
from .generator_step import Competition, ImageGenerator
from .networks import Events, Outputs, PixelUnits, Processes, Taps, Teacher
from .recovery import Backoff, MicroBatch
from .state import BatchState, CyclePart, DistillState, GenerateState
from .student_step import StudentTrainer, gradient_norm, train_only_quantized

__all__ = [
    "Backoff",
    "BatchState",
    "Competition",
    "CyclePart",
    "CycleSettings",
    "DistillState",
    "Events",
    "GenerateState",
    "ImageGenerator",
    "ImageSource",
    "MicroBatch",
    "Outputs",
    "PixelUnits",
    "Processes",
    "StudentTrainer",
    "Taps",
    "Teacher",
    "TeacherStudentCycle",
    "calibrate",
    "generate_images",
    "gradient_norm",
    "train_only_quantized",
]
