"""Attention among all tokens of an image."""

from __future__ import annotations

from .case import Case

LAYERS = {"embed_dims": 32, "num_layers": 2, "num_heads": 2}
ARCH = {**LAYERS, "feedforward_channels": 64}
PLAIN: dict[str, Case] = {
    "mmseg-vit": Case("mmseg", {"type": "VisionTransformer", "img_size": (64, 64), **LAYERS}, 2, patches=(16,)),
    "mmpretrain-vit": Case(
        "mmpretrain",
        {"type": "VisionTransformer", "arch": ARCH, "img_size": 64, "layer_scale_init_value": 0.1},
        2,
        patches=(16,),
    ),
    "mmpretrain-deit": Case(
        "mmpretrain", {"type": "DistilledVisionTransformer", "arch": ARCH, "img_size": 64}, 2, patches=(16,)
    ),
}
