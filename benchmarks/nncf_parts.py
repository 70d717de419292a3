"""NNCF's quantization of the static parts, for comparison: after training, on images of the training set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from psaq_mm.deployment.onnx_file import silence
from psaq_mm.errors import UsageError


def check_nncf() -> None:
    """Make sure that NNCF is installed.

    Raises:
        UsageError: It is not.
    """
    if find_spec("nncf") is None:
        raise UsageError("nncf is not installed: pip install -r requirements/benchmark.txt")


def quantize_with_nncf(source: Path, target: Path, inputs: Sequence[Tensor]) -> None:
    """Quantize a float part to INT8 with NNCF's settings for transformers.

    These are its defaults, among them SmoothQuant, a preset of symmetric weights and asymmetric activations, and the
    fast correction of biases.

    Args:
        source: OpenVINO's file of the float part.
        target: Where the file is written.
        inputs: What the part receives for the images of the calibration.

    Raises:
        UsageError: NNCF is not installed.
    """
    check_nncf()
    with silence():
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        model: Any = openvino.Core().read_model(str(source))
        dataset = nncf.Dataset([one.numpy() for one in inputs])
        quantized = nncf.quantize(
            model,
            dataset,
            subset_size=len(inputs),
            fast_bias_correction=True,
            model_type=nncf.ModelType.TRANSFORMER,
        )
        openvino.save_model(quantized, str(target), compress_to_fp16=False)
