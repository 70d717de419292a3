"""Convolutions and attention."""

from __future__ import annotations

from .case import Case

XCIT = {"type": "XCiT", "img_size": 64, "embed_dims": 32, "depth": 2, "num_heads": 2}
ENCODING = ("pos_embed.token_projection",)
HYBRIDS: dict[str, Case] = {
    "mmpretrain-xcit": Case(
        "mmpretrain",
        {**XCIT, "cls_attn_layers": 2, "out_type": "raw", "out_indices": [1, 3]},
        4,
        taps=2,
        patches=(16,),
        float_layers=ENCODING,
    ),
    "mmpretrain-xcit-tokens-norm": Case(
        "mmpretrain",
        {**XCIT, "patch_size": 8, "cls_attn_layers": 1, "qkv_bias": False, "tokens_norm": True},
        3,
        taps=2,
        patches=(64,),
        float_layers=ENCODING,
    ),
    "mmpretrain-edgenext": Case(
        "mmpretrain",
        {
            "type": "EdgeNeXt",
            "arch": {"channels": [16, 32, 32, 48], "depths": [1, 1, 2, 1], "num_heads": [2, 2, 2, 2]},
            "out_indices": [0, 1, 2, 3],
            "gap_before_final_norm": False,
        },
        3,
        patches=(64, 16, 4),
        float_layers=("pos_embed.proj",),
    ),
    # a dict cannot be given as arch: the class asks for other keys than it reads
    "mmpretrain-levit": Case(
        "mmpretrain",
        {"type": "LeViT", "arch": "128s", "img_size": 128, "out_indices": (0, 1, 2)},
        11,
        size=128,
        patches=(64, 16, 4),
    ),
    "mmpretrain-tinyvit": Case(
        "mmpretrain",
        {
            "type": "TinyViT",
            "arch": {"channels": [16, 32, 32, 64], "num_heads": [1, 2, 2, 4], "depths": [1, 1, 2, 1]},
            "img_size": (64, 64),
            # the third pads its map of 4x4 to 6x6
            "window_size": [4, 4, 3, 2],
            "out_indices": [2, 3],
            "gap_before_final_norm": False,
        },
        4,
        patches=(64, 36, 4),
    ),
    "mmpretrain-efficientformer": Case(
        "mmpretrain",
        {
            "type": "EfficientFormer",
            "arch": {
                "layers": [1, 1, 1, 2],
                "embed_dims": [16, 16, 16, 32],
                "downsamples": [False, True, True, True],
                "vit_num": 1,
            },
            "out_indices": (0, 1, 2, 3),
            "reshape_last_feat": True,
        },
        1,
        # the bias tables are for 7x7 tokens
        size=224,
        patches=(49,),
    ),
    "mmpretrain-conformer": Case(
        "mmpretrain",
        {
            "type": "Conformer",
            "arch": {"embed_dims": 32, "depths": 3, "num_heads": 2, "channel_ratio": 1},
            "base_channels": 16,
        },
        3,
        patches=(16,),
    ),
    "mmpretrain-mobilevit": Case(
        "mmpretrain",
        {
            "type": "MobileViT",
            "arch": [
                ["mobilenetv2", 16, 1, 1, 2],
                ["mobilenetv2", 16, 2, 1, 2],
                ["mobilevit", 24, 2, 32, 64, 2, 2],
                ["mobilevit", 24, 2, 32, 64, 1, 2],
            ],
            "out_indices": [2, 3],
        },
        3,
        size=128,
        patches=(256, 64),
    ),
}
