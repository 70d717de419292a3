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
    "mmpretrain-eva02": Case(
        "mmpretrain",
        {"type": "ViTEVA02", "arch": ARCH, "img_size": 56, "patch_size": 14, "sub_ln": True, "final_norm": False},
        2,
        size=56,
        patches=(16,),
    ),
    "mmpretrain-dinov2": Case(
        "mmpretrain",
        {
            "type": "VisionTransformer",
            "arch": ARCH,
            "img_size": 56,
            "patch_size": 14,
            "layer_scale_init_value": 0.1,
            "layer_cfgs": {"ffn_type": "swiglu_fused"},
        },
        2,
        size=56,
        patches=(16,),
    ),
    "mmpretrain-deit3": Case("mmpretrain", {"type": "DeiT3", "arch": ARCH, "img_size": 64}, 2, patches=(16,)),
    # its fusion layer has a lambda
    "mmpretrain-revvit": Case(
        "mmpretrain", {"type": "RevVisionTransformer", "arch": ARCH, "img_size": 64}, 2, patches=(16,), pickled=False
    ),
    "mmpretrain-t2t-vit": Case(
        "mmpretrain",
        {
            "type": "T2T_ViT",
            "img_size": 64,
            "embed_dims": 32,
            "num_layers": 2,
            "t2t_cfg": {"token_dims": 16},
            "layer_cfgs": {"num_heads": 2, "feedforward_channels": 64},
        },
        4,
        patches=(256, 64, 16),
    ),
    "mmpretrain-tnt": Case(
        "mmpretrain",
        {
            "type": "TNT",
            "arch": {
                "embed_dims_outer": 32,
                "embed_dims_inner": 8,
                "num_layers": 2,
                "num_heads_outer": 2,
                "num_heads_inner": 2,
            },
            "img_size": 64,
        },
        4,
        # 16 patches of 16 pixels each, and 16 patches
        patches=(256, 16),
    ),
    "mmpretrain-hivit": Case(
        "mmpretrain",
        {
            "type": "HiViT",
            # its index of the output counts the blocks of the stem, too: more blocks behind it than in it
            "arch": {"embed_dims": 32, "depths": [1, 1, 7], "num_heads": 2},
            "img_size": 64,
            "rpe": True,
            "layer_scale_init_value": 0.1,
        },
        7,
        patches=(16,),
    ),
    "mmpretrain-mocov3": Case(
        "mmpretrain",
        {"type": "MoCoV3ViT", "arch": ARCH, "img_size": 64, "patch_size": 16, "stop_grad_conv1": True},
        2,
        patches=(16,),
    ),
    "mmpretrain-clip": Case(
        "mmpretrain",
        {
            "type": "VisionTransformer",
            "arch": ARCH,
            "img_size": 64,
            "pre_norm": True,
            "layer_cfgs": {"act_cfg": {"type": "QuickGELU"}},
        },
        2,
        patches=(16,),
    ),
}
