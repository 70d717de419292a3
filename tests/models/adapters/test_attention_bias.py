"""Attention with a table of biases: the biases follow the table, and the size of the map follows from it."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.backbones.efficientformer import AttentionWithBias
from mmpretrain.models.backbones.levit import Attention, AttentionSubsample
from mmpretrain.models.utils.attention import LeAttention
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models.image_size import check_image_size
from psaq_mm.quantization import QuantPolicy, fold_norms, quantize_model
from tests.conftest import random_weights
from tests.models.families.hybrids import HYBRIDS
from tests.quantization.switching import enable_quantizers

ATTENTIONS = {
    "levit": lambda: Attention(16, 8, num_heads=2, attn_ratio=2, resolution=4),
    "levit-subsample": lambda: AttentionSubsample(16, 32, 8, num_heads=2, resolution=4),
    "tinyvit": lambda: LeAttention(16, 8, num_heads=2, attn_ratio=1, resolution=(4, 4)),
    "efficientformer": lambda: AttentionWithBias(16, num_heads=2, key_dim=8, resolution=4),
}
EVERY = pytest.mark.parametrize("build", ATTENTIONS.values(), ids=ATTENTIONS.keys())


def quantized(module: nn.Module) -> nn.Module:
    module = quantize_model(module, QuantPolicy())
    enable_quantizers(module, False)
    return module


@EVERY
def test_a_table_that_is_loaded_in_eval_mode_counts(build):
    teacher = random_weights(build())
    fold_norms(teacher)
    student = quantized(copy.deepcopy(teacher))
    with torch.no_grad():
        teacher.attention_biases.mul_(-3)
    student.load_state_dict(teacher.state_dict(), strict=False)
    # the library looks its biases up again
    teacher.train()
    teacher.eval()
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(x), teacher(x), atol=1e-6, rtol=1e-5)


@EVERY
def test_the_table_gets_gradients_in_eval_mode(build):
    student = quantized(random_weights(build()))
    student(torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert bool((student.attention_biases.grad != 0).any())


@pytest.mark.parametrize("family", ["levit", "tinyvit", "efficientformer"])
def test_images_of_another_size_are_refused(family):
    case = HYBRIDS[f"mmpretrain-{family}"]
    init_default_scope(case.scope)
    backbone = MODELS.build(copy.deepcopy(case.backbone))
    check_image_size(backbone, (case.size, case.size))
    with pytest.raises(UsageError, match=f"built for {case.size}x{case.size}"):
        check_image_size(backbone, (case.size + 32, case.size + 32))
