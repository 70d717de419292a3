"""Which layer reads the image, by backbone, and the precision that a policy gives it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import QuantizationError
from psaq_mm.models import artifact_model, quantize_in_place
from psaq_mm.models.adapters.first_layer import first_layer
from psaq_mm.quantization import QuantPolicy, coverage, quantizers
from tests.zoo import VIT, VIT_ARCH

BACKBONES: dict[str, tuple[dict[str, Any], str]] = {
    "swin": (
        {"type": "mmdet.SwinTransformer", "embed_dims": 16, "depths": (1,) * 4, "num_heads": (1,) * 4},
        "patch_embed",
    ),
    "resnet": ({"type": "mmdet.ResNet", "depth": 18, "base_channels": 8}, "conv1"),
    "timm": ({"type": "mmpretrain.TIMMBackbone", "model_name": "resnet10t"}, "timm_model.conv1.0"),
}


@pytest.mark.parametrize(("config", "name"), BACKBONES.values(), ids=BACKBONES.keys())
def test_it_has_bits_of_its_own(config, name):
    init_default_scope("mmpretrain")
    assert first_layer(MODELS.build(copy.deepcopy(config))) == name
    policy = {"weight_bits": 4, "activation_bits": 4, "first_layer": 8}
    student = MODELS.build(artifact_model(ConfigDict(type="X", backbone=config), policy).backbone)
    bits = {key: one.spec.bits for key, one in quantizers(student)}
    assert all((count == 8) == key.startswith(f"{name}.") for key, count in bits.items()) and 8 in bits.values()


@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_of_a_whole_model_it_is_that_of_the_backbone(scope):
    init_default_scope("mmpretrain")
    head = {"type": "VisionTransformerClsHead", "num_classes": 5, "in_channels": 32}
    described = ConfigDict(type="ImageClassifier", backbone={**VIT, "arch": VIT_ARCH}, head=head)
    student = MODELS.build(artifact_model(described, {"weight_bits": 4, "first_layer": 8, "scope": scope}))
    weights = {key: one.spec.bits for key, one in quantizers(student) if "weight" in key}
    assert {key for key, bits in weights.items() if bits == 8} == {"backbone.patch_embed.projection.weight_quantizer"}


def test_an_override_takes_precedence_and_it_may_stay_float():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    override = [{"pattern": "backbone.0", "bits": 6}]
    found = quantize_in_place(copy.deepcopy(model), {"first_layer": 8, "overrides": override}, "backbone")
    assert found[0].weight_quantizer.spec.bits == 6
    found = quantize_in_place(copy.deepcopy(model), {"first_layer": "float"}, "backbone")
    assert type(found[0]) is nn.Conv2d and type(found[1]) is not nn.Conv2d
    reasons = {row.name: row.reason for row in coverage(found, QuantPolicy(), "backbone").rows}
    assert reasons["backbone.0.weight"] == "kept FP by first_layer='float'"


@pytest.mark.parametrize("value", [1, 9, True, "int8"])
def test_other_values_are_refused(value):
    with pytest.raises(QuantizationError, match="first_layer=.* is not valid: use None, 'float' or bits from 2 to 8"):
        QuantPolicy(first_layer=value)
