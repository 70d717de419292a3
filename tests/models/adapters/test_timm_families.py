"""What timm's families need beyond tests/models/test_families.py: whole classifiers, cached biases, padding, norms."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, set_fused_attn
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from psaq_mm.in_memory import TimmModel
from psaq_mm.models import AttentionTaps
from psaq_mm.models.quantized import quantize_body
from psaq_mm.quantization import (
    QuantConv2d,
    QuantMatMul,
    QuantPolicy,
    calibrating,
    convert_child,
    fold_norms,
    quantized_layers,
)
from tests.conftest import random_weights
from tests.quantization.switching import enable_quantizers

SIZES = {"img_size": 64, "num_classes": 5}
STAGES = {"serial_depths": (1, 1, 1, 1), "num_heads": 8}
# Name, arguments, attention layers, numbers of patches in the tapped layers. mmpretrain's TIMMBackbone cannot hold
# these: they cannot do without pooling, or the attention is the pooling.
CLASSIFIERS = {
    "crossvit": (
        "crossvit_tiny_240",
        {"embed_dim": (16, 32), "depth": ((1, 1, 1),), "num_heads": (2, 2), "img_scale": (0.75, 1.0), **SIZES},
        4,
        (16, 16),
    ),
    "coat": (
        "coat_tiny",
        {"embed_dims": (16, 16, 16, 16), "parallel_depth": 1, **STAGES, **SIZES},
        7,
        (256, 64, 16, 4, 64, 16, 4),
    ),
    "coat-lite": ("coat_lite_tiny", {"embed_dims": (16, 32, 32, 64), **STAGES, **SIZES}, 4, (256, 64, 16, 4)),
    "siglip": ("vit_base_patch16_siglip_224", {"embed_dim": 32, "depth": 1, "num_heads": 2, **SIZES}, 2, (16,)),
}


def unfused(build):
    """Build a model that computes attention without torch's fused one."""
    set_fused_attn(False)
    try:
        return build()
    finally:
        set_fused_attn(True)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_classifiers(case):
    name, arguments, attentions, patches = case
    teacher = TimmModel(random_weights(timm.create_model(name, **arguments))).eval()
    student = quantize_body(copy.deepcopy(teacher), "model", {})
    assert sum(isinstance(one, QuantMatMul) for one in student.modules()) == 2 * attentions
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    enable_quantizers(student, False)
    with torch.no_grad(), AttentionTaps(teacher) as taps:
        expected = teacher(images)
        assert tuple(layer.patches().tokens.shape[2] for layer in taps.take()) == patches
        torch.testing.assert_close(student(images), expected, rtol=1e-5, atol=1e-5)
        enable_quantizers(student, True)
        with calibrating(student):
            student(images)
        # 8 bits in all layers in a row, of random weights; linear attention divides no product by a sum of its weights
        assert 0 < relative_error(student(images), expected) < (0.3 if name == "coat_tiny" else 0.15)


UNFUSED = {
    "maps": ("coatnet_0_rw_224", {"embed_dim": (32,) * 4, "depths": (1,) * 4, "stem_width": 16, "img_size": 64}),
    "windows": (
        "maxvit_pico_rw_256",
        {"embed_dim": (32, 32), "depths": (1, 1), "block_type": ("M", "M"), "img_size": 64},
    ),
    "differential": ("vit_dlittle_patch16_reg1_gap_256", {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 64}),
    "rope": ("vit_small_patch16_rope_224", {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 64}),
}


@pytest.mark.parametrize("case", UNFUSED.values(), ids=UNFUSED.keys())
def test_attention_computes_the_same_without_torchs_fused_attention(case):
    name, arguments = case

    def build() -> nn.Module:
        return TimmModel(random_weights(timm.create_model(name, num_classes=5, **arguments))).eval()

    teacher, other = build(), unfused(build)
    other.load_state_dict(teacher.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    student = quantize_body(copy.deepcopy(other), "model", {})
    enable_quantizers(student, False)
    with torch.no_grad():
        expected = teacher(images)
        torch.testing.assert_close(student(images), expected, rtol=1e-5, atol=1e-5)
        with AttentionTaps(teacher) as taps:
            teacher(images)
            fused = taps.take()
        with AttentionTaps(other) as taps:
            other(images)
            steps = taps.take()
    # the two attentions of a differential one are one product there
    if "dlittle" not in name:
        for one, two in zip(fused, steps, strict=True):
            torch.testing.assert_close(one.tokens, two.tokens, rtol=1e-4, atol=1e-5)


def test_the_state_of_differential_attention_does_not_depend_on_timms_setting():
    name, arguments = UNFUSED["differential"]

    def build() -> nn.Module:
        return random_weights(timm.create_model(name, num_classes=5, **arguments))

    one, other = (quantize_body(TimmModel(model), "model", {}) for model in (build(), unfused(build)))
    assert {"qk2", "av2"} <= {key.split(".")[-2] for key, _ in other.named_modules() if key.endswith("quantizer")}
    other.load_state_dict(one.state_dict())


BIASED = {"beit": timm.models.beit.Attention, "eva": timm.models.eva.EvaAttention}


@pytest.mark.parametrize("scheme", ["paper", "deploy"])
@pytest.mark.parametrize("cls", BIASED.values(), ids=BIASED.keys())
def test_biases_behind_the_projection_are_quantized_with_v(cls, scheme):
    options = {"norm_layer": nn.LayerNorm} if cls is BIASED["eva"] else {}
    module = random_weights(cls(16, 2, qkv_bias=True, **options))
    attention = convert_child(module, "attn", QuantPolicy(scheme=scheme))
    seen = []
    attention.av.right_quantizer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    with calibrating(attention), torch.no_grad():
        attention(x)
        output = attention.qkv(x)[..., 32:]
    expected = (output + attention.v_bias).unflatten(2, (2, 8)).transpose(1, 2)
    # calibration passes values through; float32 sums differ in the last bits
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)
    assert "right" not in getattr(attention.av, "fp_notes", {})


def test_a_bias_from_one_pass_is_not_used_in_the_next():
    model = timm.create_model("levit_128s", num_classes=0).eval().stages[0].blocks[0].attn
    random_weights(model)
    attention = convert_child(model, "attn", QuantPolicy())
    x = torch.randn(1, 196, 128)
    with calibrating(attention), torch.no_grad():
        attention(x)
    for _ in range(2):
        # a kept bias would belong to the graph of the first pass
        attention(x).sum().backward()
    copy.deepcopy(attention)
    before = attention(x)
    with torch.no_grad():
        attention.attention_biases.copy_(torch.randn_like(attention.attention_biases))
    assert not torch.allclose(attention(x), before)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_padding_that_depends_on_the_size(size, stride, kernel):
    conv = Conv2dSame(3, 4, kernel, stride)
    holder = convert_child(nn.Sequential(copy.deepcopy(conv)), "", QuantPolicy())
    (layer,) = quantized_layers(holder)
    assert isinstance(layer, QuantConv2d)
    enable_quantizers(holder, False)
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(holder(x), conv(x))
    # the keys are the float layer's, with the quantizers' beside them
    keys = {key for key in holder.state_dict() if "_quantizer." not in key}
    assert keys == {"0.weight", "0.bias"}
    holder.load_state_dict(holder.state_dict())


def test_a_folded_norm_keeps_its_activation():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 4, 3)).eval()
    random_weights(model)
    x = torch.randn(2, 3, 8, 8)
    expected, state = model(x), copy.deepcopy(model.state_dict())
    assert fold_norms(model) == ["1"]
    torch.testing.assert_close(model(x), expected)
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_050"])
def test_norms_are_folded_into_the_convolutions_before_them(name):
    model = random_weights(timm.create_model(name, num_classes=5)).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
        fold_norms(model)
        assert not any(isinstance(one, nn.BatchNorm2d) for one in model.modules())
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
