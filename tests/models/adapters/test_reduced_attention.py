"""Attention to a smaller map: which keys it has in the state dict, and what it computes with parts kept FP."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones.pvt import SpatialReductionAttention
from mmseg.models.backbones.mit import EfficientMultiheadAttention

from psaq_mm.quantization import QuantLinear, QuantPolicy, quantize_model
from tests.conftest import random_weights
from tests.quantization.switching import enable_quantizers

CLASSES = [EfficientMultiheadAttention, SpatialReductionAttention]
HOSTS = pytest.mark.parametrize("host", CLASSES, ids=["mmseg", "mmdet"])
RATIOS = pytest.mark.parametrize("ratio", [1, 2], ids=["whole-map", "reduced"])
BIASES = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])


def attention(host, ratio: int, bias: bool) -> torch.nn.Module:
    return random_weights(host(16, 2, qkv_bias=bias, sr_ratio=ratio))


@HOSTS
@RATIOS
@BIASES
def test_its_state_has_the_librarys_keys_and_values(host, ratio, bias):
    module = attention(host, ratio, bias)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    quantized = quantize_model(module, QuantPolicy())
    after = {key: value for key, value in quantized.state_dict().items() if "_quantizer." not in key}
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@HOSTS
def test_queries_and_the_reduced_map_have_projections_of_their_own(host):
    quantized = quantize_model(attention(host, 2, True), QuantPolicy())
    layers = {key: one.weight.shape for key, one in quantized.attn.named_modules() if isinstance(one, QuantLinear)}
    assert layers == {"kv_proj": (32, 16), "q_proj": (16, 16), "out_proj": (16, 16)}


@HOSTS
@RATIOS
@pytest.mark.parametrize("identity", [None, 0.0], ids=["input", "zero"])
def test_the_residual_sum_is_the_librarys(host, ratio, identity):
    module = attention(host, ratio, True)
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x, (4, 4), identity=identity)
        quantized = quantize_model(module, QuantPolicy())
        enable_quantizers(quantized, False)
        # other orders of the same float32 sums
        torch.testing.assert_close(quantized(x, (4, 4), identity=identity), expected, atol=1e-6, rtol=1e-5)


@HOSTS
def test_an_attention_with_extra_parts_stays_fp(host):
    module = attention(host, 2, True)
    module.attn.bias_k = torch.nn.Parameter(torch.zeros(1, 1, 16))
    assert quantize_model(module, QuantPolicy()) is module
    assert isinstance(module.attn, torch.nn.MultiheadAttention)
