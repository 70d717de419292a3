"""Converter of the Swin authors' checkpoints for detection and segmentation to the names of mmdet and mmseg.

Their checkpoints were written by mmdet 2.x and mmseg 0.x with a Swin of their own. The names of heads and necks are
those of today. The backbone's names differ, and so does the order in which patch merging concatenates four neighbours:
the authors' one after the other, columns first (``x[0::2, 0::2]``, ``x[1::2, 0::2]``, ``x[0::2, 1::2]``,
``x[1::2, 1::2]``), ``nn.Unfold`` all four values of a channel together, rows first. Without the reordering the weights
load without an error, and the model detects nothing.
"""

from __future__ import annotations

import re

from torch import Tensor

from ...errors import PSAQError
from ..hosts import host_imports

PREFIX = "backbone."
# Swin V2 has no such table; its norm and reduction come in another order.
AUTHORS_NAMES = re.compile(r"backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table")
BARE_NAMES = re.compile(r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table")
HOST_NAMES = re.compile(r"backbone\.stages\.\d+\.blocks\.\d+\.attn\.w_msa\..*")


def has_authors_names(state: dict[str, Tensor]) -> bool:
    """Whether a detector's or segmentor's state dict calls its backbone's tensors as the Swin authors do."""
    return any(AUTHORS_NAMES.fullmatch(key.removeprefix("module.")) for key in state)


def convert_authors_swin(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A state dict for mmdet 3.x or mmseg 1.x from one that the Swin authors released.

    mmdet's own function renames and reorders the backbone; mmdet itself applies it to bare ImageNet weights only. The
    masks of shifted windows are left out, since the hosts compute them; other entries stay unchanged.

    Args:
        state: A detector's or segmentor's; not changed. Tensors that need no reordering are shared with the result.
        name: How messages refer to it.

    Raises:
        PSAQError: The names are not those: the host's already, a bare backbone's, or of another architecture.
    """
    # not at import: mmdet may be absent where only mmseg or mmpretrain is used
    with host_imports():
        from mmdet.models.backbones.swin import swin_converter

    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(HOST_NAMES.fullmatch(key) for key in state):
        raise PSAQError(f"the checkpoint {name} has the names of mmdet and mmseg already: use it as it is")
    if any(BARE_NAMES.fullmatch(key) for key in state):
        raise PSAQError(
            f"the checkpoint {name} holds a backbone alone, which mmdet and mmseg convert by themselves "
            "(init_cfg, convert_weights=True): give that of a detector or segmentor"
        )
    if not has_authors_names(state):
        raise PSAQError(
            f"the checkpoint {name} has not the Swin authors' names (backbone.layers.0.blocks.0.attn.qkv.weight and so "
            "on): give one that they released for detection or segmentation"
        )
    backbone = {
        key.removeprefix(PREFIX): value
        for key, value in state.items()
        if key.startswith(PREFIX) and not key.endswith(".attn_mask")
    }
    rest = {key: value for key, value in state.items() if not key.startswith(PREFIX)}
    return {**swin_converter(backbone), **rest}
