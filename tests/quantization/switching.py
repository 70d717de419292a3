"""Shared by the tests of quantization: quantizers on and off."""

from __future__ import annotations

from torch import nn

from psaq_mm.quantization import quantizers


def enable_quantizers(model: nn.Module, enabled: bool) -> None:
    """Enables or disables all quantizers of a model; without them it computes as the float model."""
    for _, quantizer in quantizers(model):
        quantizer.enabled = enabled
