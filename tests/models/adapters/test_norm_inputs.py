"""Which inputs come from a LayerNorm: those, and only those, get a scale for each channel where the policy says so."""

from __future__ import annotations

import pytest
import timm
import torch
from mmdet.models.backbones import SwinTransformer as MmdetSwin
from mmpretrain.models import SwinTransformer as MmpretrainSwin
from mmpretrain.models import SwinTransformerV2 as MmpretrainSwinV2
from mmpretrain.models import VisionTransformer as MmpretrainViT
from mmseg.models import SwinTransformer as MmsegSwin
from mmseg.models import VisionTransformer as MmsegViT
from torch import nn

from psaq_mm.models import quantize_in_place
from psaq_mm.quantization import QuantLinear, QuantMatMul, calibrating
from tests.conftest import random_weights
from tests.models.families.hybrids import HYBRIDS
from tests.models.families.pyramids import PYRAMIDS

SWIN = {"embed_dims": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
ARCH = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 32}
# of each: how many layers read a norm's output, and how many read something else
BACKBONES = [
    pytest.param(lambda: MmdetSwin(**SWIN), 2 * 4 + 3, 2 * 4, id="mmdet-swin"),
    pytest.param(lambda: MmsegSwin(**SWIN), 2 * 4 + 3, 2 * 4, id="mmseg-swin"),
    pytest.param(
        lambda: MmpretrainSwin(SWIN),
        2 * 4 + 3,
        2 * 4,
        id="mmpretrain-swin",
    ),
    pytest.param(
        lambda: MmsegViT(img_size=64, embed_dims=16, num_layers=2, num_heads=2, mlp_ratio=2),
        2 * 2,
        2 * 2,
        id="mmseg-vit",
    ),
    pytest.param(lambda: MmpretrainViT(ARCH, img_size=64), 2 * 2, 2 * 2, id="mmpretrain-vit"),
    pytest.param(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=16, depth=2, num_heads=2),
        2 * 2,
        # the head, too
        2 * 2 + 1,
        id="timm-vit",
    ),
    pytest.param(
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
        ),
        2 * 4 + 3,
        2 * 4 + 1,
        id="timm-swin",
    ),
]
OPTIONS = {"activation_bits": 4, "norm_inputs": "per_channel", "softmax_grid": "log2"}


@pytest.mark.parametrize(("build", "behind_norms", "others"), BACKBONES)
def test_every_library_is_understood(build, behind_norms, others):
    torch.manual_seed(0)
    model = quantize_in_place(random_weights(build()), OPTIONS)
    seen: dict[int, bool] = {}

    def watch(layer: nn.Module) -> None:
        def compare(_: nn.Module, args: tuple) -> None:
            # a view or a reordering of a norm's output shares its values
            values = args[0].detach().flatten().sort().values
            seen[id(layer)] = any(values.shape == one.shape and torch.equal(values, one) for one in normed)

        layer.register_forward_pre_hook(compare)

    normed: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, args, out: normed.append(out.detach().flatten().sort().values))
        elif isinstance(module, QuantLinear):
            watch(module)
    with torch.no_grad(), calibrating(model):
        # 224: windows of 7 fit into every stage, so that no padding stands between a norm and a layer
        size = 224 if "Swin" in type(model).__name__ else 64
        model(torch.randn(1, 3, size, size))
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    for layer in layers:
        assert layer.input_quantizer.spec.per_channel == seen[id(layer)]
    assert sum(seen.values()) == behind_norms and len(layers) == behind_norms + others
    products = [module for name, module in model.named_modules() if name.endswith(".av")]
    assert products and all(isinstance(product, QuantMatMul) for product in products)
    assert all((p.left_quantizer.spec.grid, p.right_quantizer.spec.grid) == ("log2", "uniform") for p in products)


FAMILIES = {**PYRAMIDS, **HYBRIDS}


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_layer_with_a_scale_for_each_channel_reads_a_norm_and_nothing_else(case):
    model = quantize_in_place(case.build(), OPTIONS)
    normed: list[torch.Tensor] = []
    others: list[str] = []

    def values(one: torch.Tensor) -> torch.Tensor:
        # without the zeros of padding, in any order
        flat = one.detach().flatten()
        return flat[flat != 0].sort().values

    def watch(name: str, layer: nn.Module) -> None:
        def compare(_: nn.Module, args: tuple) -> None:
            read = values(args[0])
            if not any(read.shape == one.shape and torch.equal(read, one) for one in normed):
                others.append(name)

        layer.register_forward_pre_hook(compare)

    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, args, out: normed.append(values(out)))
        elif isinstance(module, QuantLinear) and module.input_quantizer.spec.per_channel:
            watch(name, module)
    with torch.no_grad(), calibrating(model):
        model(torch.randn(1, 3, case.size, case.size))
    assert not others


POST_NORM = {
    "mmpretrain-swin-v2": lambda: MmpretrainSwinV2({**SWIN, "extra_norm_every_n_blocks": 1}, img_size=256),
    "timm-swin-v2": lambda: timm.create_model(
        "swinv2_tiny_window8_256", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
    ),
    "timm-vit-post-norm": lambda: timm.create_model("vit_base_patch16_rpn_224", embed_dim=16, depth=2, num_heads=2),
}


@pytest.mark.parametrize("build", POST_NORM.values(), ids=POST_NORM.keys())
def test_behind_a_layer_a_norm_gives_no_layer_a_scale_for_each_channel(build):
    """What such a norm gives is also a summand of the residual sum, so its gamma cannot take in a layer's scales."""
    model = quantize_in_place(random_weights(build()), OPTIONS)
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    assert layers and not any(layer.input_quantizer.spec.per_channel for layer in layers)


def test_an_override_takes_a_layer_out():
    torch.manual_seed(0)
    kept = [{"pattern": "stages.0.*.qkv", "norm_inputs": "per_tensor"}, {"pattern": "*.ffn", "keep_fp": True}]
    model = quantize_in_place(random_weights(MmdetSwin(**SWIN)), {**OPTIONS, "overrides": kept})
    first, second = (model.stages[index].blocks[0] for index in range(2))
    assert not first.attn.w_msa.qkv.input_quantizer.spec.per_channel
    assert second.attn.w_msa.qkv.input_quantizer.spec.per_channel
    assert not any(isinstance(module, QuantLinear) for module in second.ffn.modules())
