"""The one error of the quantization package."""

from __future__ import annotations


class QuantizationError(ValueError):
    """What is wrong with a quantizer, a policy or a checkpoint, and what the user can do about it, in one line."""
