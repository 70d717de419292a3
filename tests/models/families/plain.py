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
    "mmseg-beit": Case("mmseg", {"type": "BEiT", "img_size": (64, 64), **LAYERS}, 2, patches=(16,)),
    "mmseg-mae": Case(
        "mmseg", {"type": "MAE", "img_size": (64, 64), **LAYERS, "out_indices": (0, 1)}, 2, patches=(16,)
    ),
    "mmpretrain-beit": Case("mmpretrain", {"type": "BEiTViT", "arch": ARCH, "img_size": 64}, 2, patches=(16,)),
    "mmpretrain-beit-shared-bias": Case(
        "mmpretrain",
        {
            "type": "BEiTViT",
            "arch": ARCH,
            "img_size": 64,
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
            "out_type": "featmap",
            "bias": True,
        },
        2,
        patches=(16,),
    ),
    "mmpretrain-eva": Case(
        "mmpretrain",
        {
            "type": "BEiTViT",
            "arch": ARCH,
            "img_size": 56,
            "patch_size": 14,
            "layer_scale_init_value": 0.0,
            "use_abs_pos_emb": True,
            "use_rel_pos_bias": False,
        },
        2,
        size=56,
        patches=(16,),
    ),
}
