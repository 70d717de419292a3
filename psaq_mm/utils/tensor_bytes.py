"""Bytes of tensors, for hashes."""

from __future__ import annotations

import ctypes

from torch import Tensor


def image_bytes(image: Tensor) -> bytes:
    """The bytes of an image in row-major order and native byte order."""
    flat = image.contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes)
