"""Converter of timm's plain vision transformers to the names of mmpretrain's, for training that starts from them.

The DeiT and ViT weights that their authors released have timm's names. Only names differ: both concatenate queries,
keys and values in ``qkv`` and have the class token first. mmengine reads such a file wherever it takes the path of a
checkpoint, with :data:`SCHEME` before it::

    backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', ...,
                  init_cfg=dict(type='Pretrained', checkpoint='timm-vit:deit_tiny_patch16_224-a1311bcf.pth'))
"""

from __future__ import annotations

import re
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor

from ...errors import PSAQError
from ..checkpoint import read_checkpoint

SCHEME = "timm-vit:"
# Beginnings of names, timm's and mmpretrain's; positions and the class token have the same in both.
RENAMED = (
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"blocks\.(\d+)\.attn\.", r"layers.\1.attn."),
    (r"blocks\.(\d+)\.norm([12])\.", r"layers.\1.ln\2."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1."),
    (r"norm\.", "ln1."),
)
KEPT = ("cls_token", "pos_embed")
# The classifier, also of the distilled variant. A backbone has none.
LEFT_OUT = r"(head|head_dist)\."


def convert_timm_vit(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A state dict for ``mmpretrain.VisionTransformer`` as a backbone from one of timm's ``VisionTransformer``.

    ``blocks.0.mlp.fc1.weight`` becomes ``layers.0.ffn.layers.0.0.weight``, and so on. The classifier is left out.

    Args:
        state: A classifier's with timm's names; not changed. Tensors are shared with the result.
        name: How messages refer to it.

    Raises:
        PSAQError: A key belongs to no plain vision transformer of timm's.
    """
    converted = {}
    for key, value in state.items():
        if re.match(LEFT_OUT, key):
            continue
        new = key if key in KEPT else next((re.sub(old, to, key) for old, to in RENAMED if re.match(old, key)), None)
        if new is None:
            raise PSAQError(
                f"the checkpoint {name} has a tensor {key!r}, which no plain vision transformer of timm's has: give "
                "one of timm's ViT or DeiT, or leave out timm-vit: before a checkpoint with other names"
            )
        converted[new] = value
    return converted


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_timm_vit(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read ``timm-vit:PATH`` as mmengine's loaders of checkpoints do.

    Args:
        filename: The path with :data:`SCHEME` before it.
        map_location: Unused: tensors are on the CPU, from where mmengine copies them.

    Returns:
        A checkpoint whose ``state_dict`` has mmpretrain's names.

    Raises:
        PSAQError: There is no such file, it cannot be read, or it has other names.
    """
    path = filename.removeprefix(SCHEME)
    loaded = read_checkpoint(path, hint="give the path of weights of timm's after timm-vit:")
    return {"state_dict": convert_timm_vit(loaded["state_dict"], path)}
