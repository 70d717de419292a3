"""The one matching rule, and a backbone that is added by a declaration alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import SwinTransformerV2
from timm.layers import LayerScale
from timm.layers.attention import Attention
from timm.models.swin_transformer import PatchMerging
from timm.models.vision_transformer import Block
from torch import nn

from psaq_mm.models import (
    Adapter,
    AttentionTaps,
    DecomposedAttention,
    artifact_model,
    check_image_size,
    quantize_in_place,
    quantized_class,
    register_adapter,
    transformer_blocks,
)
from psaq_mm.models.adapters import declaration
from psaq_mm.models.adapters.plain.vit import QuantAttention, tap_timm_attention
from psaq_mm.quantization import calibrating, convert
from tests.conftest import random_weights


def inheriting(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass that keeps the forward."""
    return type("Inheriting", (base,), {})


def overriding(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass with a forward of its own."""
    return type("Overriding", (base,), {"forward": lambda self, *args: base.forward(self, *args)})


TABLES = {
    "tap": (declaration.TAPS, Attention),
    "block": (declaration.BLOCKS, Block),
    "patch-merging": (declaration.PATCH_MERGINGS, PatchMerging),
    "layer-scale": (declaration.LAYER_SCALES, LayerScale),
    "backbone": (declaration.BACKBONES, SwinTransformer),
    "load-hook": (declaration.HIDDEN_KEYS, SwinTransformerV2),
}


@pytest.mark.parametrize(("table", "base"), TABLES.values(), ids=TABLES.keys())
def test_a_subclass_is_matched_unless_it_has_its_own_forward(table, base):
    assert table.of(base) is not None
    assert table.of(inheriting(base)) is table.of(base)
    assert table.of(overriding(base)) is None
    assert table.of(nn.Identity) is None


@pytest.mark.parametrize("derive", [inheriting, overriding])
def test_quantized_forms_follow_the_same_rule(derive):
    module = derive(Attention)(24, num_heads=3)
    assert (convert.factory_of(module) is None) == (declaration.TAPS.of(type(module)) is None)


# What follows is all that a new family takes: its classes, and a declaration.
class OwnAttention(Attention):
    """Attention with twice the usual output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class QuantOwnAttention(QuantAttention):
    """Its quantized form."""

    def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        return 2 * super().forward(x)


class OwnBlock(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.attention = OwnAttention(24, num_heads=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(self.norm(x))


class OwnBackbone(BaseModule):
    """A backbone with patches of 4x4 pixels."""

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.embed = nn.Conv2d(3, 24, 4, 4)
        self.blocks = nn.ModuleList(OwnBlock() for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        maps = self.embed(x)
        tokens = maps.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return (tokens.transpose(1, 2).view_as(maps),)


OWN = f"{__name__}.Own"
DECLARED = Adapter(
    attentions={f"{OWN}Attention": QuantOwnAttention.from_module},
    taps={f"{OWN}Attention": tap_timm_attention},
    blocks=(f"{OWN}Block",),
    backbones=(f"{OWN}Backbone",),
)


@pytest.fixture
def declared(monkeypatch):
    """The declaration, withdrawn after the test."""
    monkeypatch.setattr(convert.FACTORIES, "values", dict(convert.FACTORIES.values))
    for table in (declaration.TAPS, declaration.BLOCKS, declaration.BACKBONES):
        monkeypatch.setattr(table, "values", dict(table.values))
    register_adapter(DECLARED)


def test_a_declaration_is_all_that_a_new_backbone_takes(declared):
    teacher = random_weights(OwnBackbone())
    images = torch.randn(1, 3, 16, 16)
    check_image_size(teacher, (16, 16))
    with AttentionTaps(teacher) as taps:
        expected = teacher(images)[0]
        assert [tokens.layer for tokens in taps.take()] == ["blocks.0.attention", "blocks.1.attention"]
    assert transformer_blocks(teacher) == list(teacher.blocks)
    init_default_scope("mmdet")
    config = ConfigDict(type="Anything", backbone={"type": OwnBackbone})
    artifact = artifact_model(config, {"norm_inputs": "per_channel"}).backbone
    assert (artifact.type, artifact.host) == ("psaq_mm.QuantizedBackbone", f"{OWN}Backbone")
    student = MODELS.build(copy.deepcopy(artifact))
    assert type(student) is quantized_class(OwnBackbone)
    assert student.blocks[0].attention.qkv.input_quantizer.spec.per_channel
    assert sum(isinstance(module, DecomposedAttention) for module in student.modules()) == 2
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in key for key in missing)
    student.eval()
    with torch.no_grad(), calibrating(student):
        student(images)
    with torch.no_grad():
        found = student(images)[0]
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


def test_without_the_declaration_the_attention_stays_float():
    student = quantize_in_place(OwnBackbone(), {})
    assert not any(isinstance(module, DecomposedAttention) for module in student.modules())
