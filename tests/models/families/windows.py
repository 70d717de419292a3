"""Attention among the tokens of a window."""

from __future__ import annotations

from .case import Case

SWIN = {"embed_dims": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
V2 = {**SWIN, "extra_norm_every_n_blocks": 2}
SIZES = {"img_size": 64, "pad_small_map": True, "out_indices": (0, 1, 2, 3)}
WINDOWS: dict[str, Case] = {
    "mmdet-swin": Case("mmdet", {"type": "SwinTransformer", **SWIN}, 5),
    "mmseg-swin": Case("mmseg", {"type": "SwinTransformer", **SWIN}, 5),
    "mmpretrain-swin": Case("mmpretrain", {"type": "SwinTransformer", "arch": SWIN, **SIZES}, 5),
    "mmpretrain-swin-v2": Case(
        "mmpretrain",
        {"type": "SwinTransformerV2", "arch": V2, "window_size": 4, **SIZES},
        5,
        float_layers=("cpb_mlp",),
    ),
    "mmpretrain-mixmim": Case(
        "mmpretrain",
        {"type": "MixMIMTransformer", "arch": SWIN, "img_size": 64, "window_size": [8, 4, 4, 2]},
        5,
        patches=(256, 64, 16, 4),
    ),
    "mmpretrain-davit": Case(
        "mmpretrain",
        {"type": "DaViT", "arch": SWIN, "pad_small_map": True, "out_indices": (0, 1, 2, 3)},
        10,
    ),
    # 4x4 patches in windows of 3x3: with padding
    "mmpretrain-sam": Case(
        "mmpretrain",
        {
            "type": "ViTSAM",
            "arch": {
                "embed_dims": 32,
                "num_layers": 2,
                "num_heads": 2,
                "feedforward_channels": 64,
                "global_attn_indexes": [1],
            },
            "img_size": 64,
            "window_size": 3,
            "out_channels": 16,
        },
        2,
        patches=(36, 16),
    ),
}
