"""Attention to fewer keys and values than queries, in stages."""

from __future__ import annotations

from .case import Case

# The last map has 4 tokens. With as many heads as tokens, OpenVINO 2026.4 computes the attention of a quantized file
# wrong (about 13 dB), while ONNX Runtime computes the same file right.
TWINS = {
    "embed_dims": [16, 32, 32, 64],
    "num_heads": [1, 2, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "depths": [2, 1, 1, 1],
    "strides": [4, 2, 2, 2],
    "patch_sizes": [4, 2, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
}
MMPRETRAIN = {"in_channels": 3, "out_indices": (0, 1, 2, 3), "norm_after_stage": [False, False, True, True]}
PYRAMIDS: dict[str, Case] = {
    "mmseg-mit": Case(
        "mmseg",
        {"type": "MixVisionTransformer", "embed_dims": 16, "num_layers": [2, 1, 1, 1], "num_heads": [1, 2, 2, 2]},
        5,
        patches=(256, 64, 16, 4),
    ),
    "mmseg-pcpvt": Case("mmseg", {"type": "PCPVT", **TWINS}, 5, patches=(256, 64, 16, 4)),
    "mmseg-svt": Case("mmseg", {"type": "SVT", **TWINS, "depths": [2, 2, 1, 2], "windiow_sizes": [7, 7, 7, 7]}, 7),
    "mmpretrain-pcpvt": Case(
        "mmpretrain", {"type": "PCPVT", "arch": TWINS, **MMPRETRAIN, "qkv_bias": True}, 5, patches=(256, 64, 16, 4)
    ),
    "mmpretrain-svt": Case(
        "mmpretrain",
        {"type": "SVT", "arch": {**TWINS, "depths": [2, 2, 1, 2], "window_sizes": [7, 7, 7, 7]}, **MMPRETRAIN},
        7,
    ),
    "mmdet-pvt": Case(
        "mmdet",
        {
            "type": "PyramidVisionTransformer",
            "embed_dims": 16,
            "num_layers": [2, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
        },
        5,
        patches=(256, 64, 16, 4),
    ),
    "mmdet-pvt-v2": Case(
        "mmdet",
        {
            "type": "PyramidVisionTransformerV2",
            "embed_dims": 16,
            "num_layers": [2, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
        },
        5,
        patches=(256, 64, 16, 4),
    ),
    "mmpretrain-mvit": Case(
        "mmpretrain",
        {
            "type": "MViT",
            "arch": {"embed_dims": 16, "num_layers": 4, "num_heads": 1, "downscale_indices": [1, 2]},
            "img_size": 64,
            "out_scales": [0, 1, 2],
        },
        4,
        patches=(256, 64, 16),
    ),
    "mmpretrain-mvit-mlp": Case(
        "mmpretrain",
        {
            "type": "MViT",
            "arch": {"embed_dims": 16, "num_layers": 3, "num_heads": 1, "downscale_indices": [1, 2]},
            "img_size": 128,
            "use_abs_pos_embed": True,
            "dim_mul_in_attention": False,
        },
        3,
        patches=(256, 64, 16),
    ),
}
