"""Forwards that the package takes over: torch's fused attention in steps, failed passes, and taps that are undone."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from psaq_mm.models import AttentionTaps, quantize_in_place
from psaq_mm.models.adapters.intercepted import attention_steps
from tests.conftest import random_weights
from tests.quantization.switching import enable_quantizers

# one is a sum of a few dozen products in float32, in another order
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
BLANK_ROW = torch.arange(35).view(5, 7) % 3 > 0
BLANK_ROW[2] = False
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "bool-mask-with-a-blank-row": {"attn_mask": BLANK_ROW},
    "float-mask-with-a-blank-row": {"attn_mask": torch.zeros(5, 7).masked_fill(~BLANK_ROW, -torch.inf)},
    "mask-of-one-row": {"attn_mask": torch.zeros(2, 1, 1, 7, dtype=torch.bool).index_fill(0, torch.tensor(1), True)},
    "grouped-heads": {"enable_gqa": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_steps_are_torchs_attention(options):
    generator = torch.Generator().manual_seed(0)
    heads = 2 if "enable_gqa" in options else 4
    shapes = ((2, 4, 5, 8), (2, heads, 7, 8), (2, heads, 7, 8))
    operands = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    found = attention_steps(torch.matmul, *operands, **options)
    expected = scaled_dot_product_attention(*operands, **options)
    torch.testing.assert_close(found, expected, **CLOSE)
    gradients = (torch.autograd.grad(one.square().sum(), operands) for one in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_failed_pass_leaves_no_cache():
    model = timm.create_model("levit_128s", num_classes=5)
    student = quantize_in_place(nn.ModuleList([model.stages[0].blocks[0].attn]), {})
    enable_quantizers(student, False)
    attention = student[0]
    attention.proj = nn.Identity()
    attention.proj.register_forward_pre_hook(lambda *_: 1 / 0)
    # timm's method returns nothing
    attention.eval()
    with pytest.raises(ZeroDivisionError):
        attention(torch.randn(2, 196, 128))
    assert not attention.attention_bias_cache
    copy.deepcopy(attention)


class Model(nn.Module):
    """One attention layer of timm, behind a wrapper of its forward if asked."""

    def __init__(self, wrapped: bool) -> None:
        super().__init__()
        self.attn = timm.models.beit.Attention(16, 2)
        self.calls = 0
        if wrapped:
            self.attn.forward = functools.partial(self.count, self.attn.forward)

    def count(self, forward, *args):
        self.calls += 1
        return forward(*args)

    def forward(self, x):
        return self.attn(x)


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "plain"])
def test_a_tap_keeps_the_instances_own_forward(wrapped):
    model = random_weights(Model(wrapped))
    before = vars(model.attn).get("forward")
    with AttentionTaps(model) as taps:
        model(torch.randn(2, 6, 16))
        assert len(taps.take()) == 1
    assert model.calls == int(wrapped)
    assert vars(model.attn).get("forward") is before
    assert wrapped or "forward" not in vars(model.attn)


def test_torchs_attention_gets_its_own_forward_back():
    model = nn.ModuleList([nn.MultiheadAttention(16, 2)])
    wrapper = functools.partial(model[0].forward)
    model[0].forward = wrapper
    with AttentionTaps(model):
        assert vars(model[0])["forward"] is not wrapper
    assert vars(model[0])["forward"] is wrapper


@torch.no_grad()
def test_a_copy_of_a_tapped_module_computes_with_its_own_weights():
    model = random_weights(Model(False))
    x = torch.randn(2, 6, 16)
    with AttentionTaps(model):
        copied = copy.deepcopy(model)
        expected = model(x)
        for parameter in copied.parameters():
            parameter.zero_()
        assert not copied(x).any()
        torch.testing.assert_close(model(x), expected)
