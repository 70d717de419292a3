"""Models of timm.

Most are shrunk by the arguments of timm's own names. Where a name fixes the sizes, a small model is registered under a
name of its own.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

from timm.models import build_model_with_cfg, register_model

from .case import Case

_NUMBERS = itertools.count()


def timm(name: str, attentions: int, size: int = 64, **options: Any) -> Case:
    """A model of timm as mmpretrain's backbone.

    Args:
        name: Its name in timm.
        attentions: As in :class:`.case.Case`.
        size: Side of the images.
        **options: Other fields of the case, and arguments of the model.
    """
    fields = {key: options.pop(key) for key in Case.__dataclass_fields__ if key in options}
    backbone = {"type": "TIMMBackbone", "model_name": name, **options}
    return Case("mmpretrain", backbone, attentions, size=size, **fields)


def small(module: str, cls: str, **sizes: Any) -> str:
    """Register a small model of a class of timm's, whose names fix the sizes.

    Args:
        module: The module in ``timm.models``.
        cls: The class.
        **sizes: Its arguments.

    Returns:
        The new name.
    """

    def build(pretrained: bool = False, features_only: bool = False, **_: Any) -> Any:
        found = importlib.import_module(f"timm.models.{module}")
        arguments = {key: value(found) if callable(value) else value for key, value in sizes.items()}
        arguments = {**arguments, "num_classes": 10}
        if features_only:
            return build_model_with_cfg(
                getattr(found, cls),
                build.__name__,
                False,
                pretrained_cfg={"num_classes": 10},
                features_only=True,
                feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
                **arguments,
            )
        return getattr(found, cls)(**arguments)

    build.__name__ = f"small_{module}_{next(_NUMBERS)}"
    register_model(build)
    return build.__name__


def byoanet(kind: str, **attention: Any) -> dict[str, Any]:
    """The config of a small network with attention in its last stage."""

    def config(module: Any) -> Any:
        block = module.ByoBlockCfg
        return module.ByoModelCfg(
            blocks=(
                block(type="bottle", d=1, c=32, s=1, gs=0, br=0.5),
                block(type="self_attn", d=1, c=32, s=2, gs=0, br=0.5),
                block(type="self_attn", d=1, c=64, s=1, gs=0, br=0.5),
            ),
            stem_chs=16,
            stem_type="3x3",
            self_attn_layer=kind,
            self_attn_kwargs=attention,
        )

    return {"cfg": config, "img_size": 64}


def mobilevit(module: Any) -> Any:
    """The config of a small MobileViT."""
    block = module._mobilevit_block(d=1, c=32, s=2, transformer_dim=32, transformer_depth=1, patch_size=2, br=2.0)
    blocks = (module._inverted_residual_block(d=1, c=16, s=2, br=2.0), block)
    return module.ByoModelCfg(blocks=blocks, stem_chs=16, stem_type="3x3", stem_pool="", downsample="")


GATHERED = "OpenVINO moves a scale through the Gather of its neighbourhoods, and fails with inconsistent shapes"
CLIPPED = "torch's exporter writes the bounds of its clipped layers behind their use"
PLAIN = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
STAGES = {"embed_dims": (16, 32, 32, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 2), "img_size": 64}
EVA = {**PLAIN, "img_size": 56}
CONSTANT = {"float_layers": ("rel_pos", "meta_mlp", "pos_proj")}
TIMM: dict[str, Case] = {
    "timm-beit": timm("beit_base_patch16_224", 2, **PLAIN),
    "timm-beit-v2": timm("beitv2_base_patch16_224", 2, **PLAIN),
    "timm-eva": timm("eva_large_patch14_196", 2, 56, **EVA),
    "timm-eva02": timm("eva02_tiny_patch14_224", 2, 56, **EVA),
    "timm-eva02-base": timm("eva02_base_patch14_224", 2, 56, **EVA),
    "timm-vit-rope": timm("vit_small_patch16_rope_224", 2, **PLAIN),
    "timm-vit-relpos": timm("vit_relpos_small_patch16_224", 2, **PLAIN, **CONSTANT),
    "timm-vit-relpos-post": timm("vit_relpos_base_patch16_rpn_224", 2, **PLAIN, **CONSTANT),
    "timm-vit-siglip": timm("vit_base_patch16_siglip_224", 2, **PLAIN),
    "timm-vit-parallel": timm("vit_pwee_patch16_reg1_gap_256", 2, **PLAIN),
    "timm-vit-differential-parallel": timm("vit_dpwee_patch16_reg1_gap_256", 4, taps=2, **PLAIN),
    "timm-vit-differential": timm("vit_dlittle_patch16_reg1_gap_256", 4, taps=2, **PLAIN),
    "timm-deit3": timm("deit3_small_patch16_224", 2, **PLAIN),
    "timm-qwen3": timm("qwen3_vit_88m", 2, **PLAIN),
    "timm-gemma4": timm("gemma4_vit_167m", 2, not_exported=CLIPPED, **PLAIN),
    "timm-naflexvit": timm("naflexvit_base_patch16_gap", 2, embed_dim=32, depth=2, num_heads=2),
    "timm-cait": timm("cait_xxs24_224", 4, taps=2, **PLAIN),
    "timm-volo": timm(
        small(
            "volo",
            "VOLO",
            layers=(1, 1),
            embed_dims=(16, 32),
            num_heads=(2, 2),
            downsamples=(True, False),
            outlook_attention=(True, False),
            img_size=64,
            stem_hidden_dim=16,
            post_layers=("ca",),
        ),
        2,
        taps=1,
    ),
    "timm-convit": timm("convit_tiny", 3, **{**PLAIN, "depth": 3}, local_up_to_layer=1, **CONSTANT),
    "timm-tnt": timm(
        "tnt_s_patch16_224", 4, taps=2, embed_dim=32, inner_dim=16, depth=2, num_heads_outer=2, img_size=64
    ),
    "timm-xcit": timm("xcit_nano_12_p16_224", 4, taps=2, float_layers=("token_projection",), **PLAIN),
    "timm-edgenext": timm(
        "edgenext_xx_small", 3, float_layers=("token_projection",), depths=(1, 1, 1, 1), dims=(16, 16, 32, 32)
    ),
    "timm-davit": timm("davit_tiny", 6, depths=(1, 1, 1), embed_dims=(16, 32, 64), num_heads=(1, 2, 2)),
    "timm-levit": timm(
        small("levit", "Levit", img_size=64, embed_dim=(16, 32), key_dim=8, depth=(1, 1), num_heads=(2, 2)), 3
    ),
    "timm-levit-conv": timm(
        small(
            "levit", "Levit", img_size=64, embed_dim=(16, 32), key_dim=8, depth=(1, 1), num_heads=(2, 2), use_conv=True
        ),
        3,
    ),
    "timm-efficientformer": timm(
        small("efficientformer", "EfficientFormer", depths=(1, 1, 1, 2), embed_dims=(16, 16, 32, 32), num_vit=1), 1, 224
    ),
    "timm-efficientformer-v2": timm(
        "efficientformerv2_s0",
        3,
        img_size=64,
        depths=(1, 1, 2, 2),
        embed_dims=(16, 16, 32, 32),
        num_vit=1,
        mlp_ratios=((4,), (4,), (4, 4), (4, 4)),
    ),
    "timm-efficientvit-msra": timm(
        "efficientvit_m0", 6, img_size=64, embed_dim=(16, 32, 32), depth=(1, 1, 1), num_heads=(2, 2, 2), taps=2
    ),
    "timm-tiny-vit": timm(
        "tiny_vit_5m_224", 3, embed_dims=(16, 32, 32, 64), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 2)
    ),
    "timm-pvt-v2": timm("pvt_v2_b0", 4, embed_dims=(16, 32, 32, 64), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 2)),
    "timm-pvt-v2-linear": timm(
        "pvt_v2_b2_li", 4, embed_dims=(16, 32, 32, 64), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 2)
    ),
    "timm-twins-svt": timm("twins_svt_small", 4, **STAGES),
    "timm-twins-pcpvt": timm("twins_pcpvt_small", 4, **STAGES),
    "timm-nextvit": timm("nextvit_small", 3, stem_chs=(16, 16, 16), depths=(1, 1, 5, 1), head_dim=16),
    "timm-caformer": timm(
        small(
            "metaformer",
            "MetaFormer",
            depths=(1, 1, 1, 1),
            dims=(16, 16, 32, 32),
            token_mixers=lambda module: [*[module.SepConv] * 2, *[module.Attention] * 2],
            norm_layers=lambda module: [*[module.LayerNorm2dNoBias] * 2, *[module.LayerNormNoBias] * 2],
        ),
        2,
        features_only=True,
    ),
    "timm-mvitv2": timm(
        small(
            "mvitv2",
            "MultiScaleVit",
            img_size=(64, 64),
            cfg=lambda module: module.MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=16),
        ),
        4,
    ),
    "timm-hiera": timm("hiera_tiny_224", 4, 128, embed_dim=16, stages=(1, 1, 1, 1), img_size=128),
    "timm-hieradet": timm("hieradet_small", 5, stages=(1, 1, 2, 1), global_att_blocks=(3,), embed_dim=16),
    "timm-swinv2-cr": timm(
        "swinv2_cr_tiny_224",
        5,
        embed_dim=16,
        depths=(2, 1, 1, 1),
        num_heads=(1, 2, 2, 2),
        img_size=64,
        window_size=4,
        **CONSTANT,
    ),
    "timm-maxvit": timm(
        "maxvit_tiny_tf_224",
        4,
        img_size=64,
        embed_dim=(32, 32),
        depths=(1, 1),
        block_type=("M", "M"),
        stem_width=16,
        **CONSTANT,
    ),
    "timm-coatnet": timm(
        "coatnet_0_rw_224", 2, img_size=64, embed_dim=(32, 32, 32, 32), depths=(1, 1, 1, 1), stem_width=16, **CONSTANT
    ),
    "timm-coatnet-rmlp": timm(
        "coatnet_rmlp_nano_rw_224",
        2,
        img_size=64,
        embed_dim=(32, 32, 32, 32),
        depths=(1, 1, 1, 1),
        stem_width=16,
        **CONSTANT,
    ),
    "timm-gcvit": timm(
        small(
            "gcvit",
            "GlobalContextVit",
            img_size=64,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(1, 2),
            window_ratio=(32, 32),
        ),
        4,
        **CONSTANT,
    ),
    "timm-nest": timm(
        small("nest", "Nest", img_size=64, num_levels=2, embed_dims=(16, 32), num_heads=(1, 2), depths=(1, 1)), 2
    ),
    "timm-sam": timm("samvit_base_patch16", 2, **PLAIN, global_attn_indexes=(1,), window_size=3, neck_chans=32),
    "timm-visformer": timm(
        "visformer_tiny", 2, img_size=64, init_channels=8, embed_dim=32, depth=(1, 1, 1), num_heads=2
    ),
    "timm-fastvit": timm("fastvit_sa12", 1, layers=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32)),
    "timm-shvit": timm("shvit_s1", 2, embed_dim=(32, 32, 32), partial_dim=(16, 16, 16), depth=(1, 1, 1)),
    "timm-mobilenetv4-hybrid": timm(
        small(
            "mobilenetv3",
            "MobileNetV3",
            block_args=lambda module: module.decode_arch_def(
                [
                    ["er_r1_k3_s2_e4_c16"],
                    ["mqa_r1_k3_h2_s1_v2_d16_c16", "mha_r1_k3_h2_s1_d16_c16", "ir_r1_k3_s2_e4_c32"],
                ]
            ),
            stem_size=16,
            num_features=32,
        ),
        2,
    ),
    "timm-iformer": timm("iformer_t", 2, dims=(16, 16, 32, 32), depths=(1, 1, 3, 3), attn_groups=(0, 0, 1, 1)),
    "timm-lowformer": timm("lowformer_b0", 2, width_list=(16, 16, 32, 32, 32), depth_list=(0, 1, 1, 1, 1)),
    "timm-botnet": timm(small("byoanet", "ByobNet", **byoanet("bottleneck")), 2),
    "timm-halonet": timm(
        small("byoanet", "ByobNet", **byoanet("halo", block_size=8, halo_size=2)), 2, not_in_openvino=GATHERED
    ),
    "timm-efficientvit-mit": timm(
        "efficientvit_b0", 2, widths=(8, 16, 16, 32, 32), depths=(1, 1, 1, 1, 1), features_only=True
    ),
    "timm-mobilevit": timm(small("mobilevit", "ByobNet", cfg=mobilevit), 1),
    "timm-pit": timm("pit_ti_224", 2, img_size=64, base_dims=(16, 16), depth=(1, 1), heads=(2, 2)),
}
