"""torch's attention and encoder layers: arguments, results, tokens, and the fast path that would ignore quantizers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from psaq_mm.models import AttentionTaps, QuantTorchAttention, quantize_in_place
from psaq_mm.quantization import QuantLinear, calibrating
from tests.conftest import random_weights
from tests.quantization.switching import enable_quantizers

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
QUERY, KEY = torch.randn(2, 6, 16), torch.randn(2, 9, 16)
CUT = torch.rand(6, 9) > 0.6
ENDED = torch.arange(9).repeat(2, 1) >= torch.tensor([[5], [9]])
CALLS = {
    "self": ((QUERY, QUERY, QUERY), {}),
    "self-without-weights": ((QUERY, QUERY, QUERY), {"need_weights": False}),
    "cross": ((QUERY, KEY, KEY), {"average_attn_weights": False}),
    "padding": ((QUERY, KEY, KEY), {"key_padding_mask": ENDED}),
    "mask": ((QUERY, KEY, KEY), {"attn_mask": torch.zeros(6, 9).masked_fill(CUT, -3.0)}),
    "one-sequence": ((QUERY[0], KEY[0], KEY[0]), {"key_padding_mask": ENDED[0]}),
}


def attention(batch_first: bool) -> nn.ModuleList:
    return nn.ModuleList([random_weights(nn.MultiheadAttention(16, 2, batch_first=batch_first))])


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "batch-second"])
@pytest.mark.parametrize(("inputs", "options"), CALLS.values(), ids=CALLS.keys())
def test_arguments_and_results_are_torchs(inputs, options, batch_first):
    model = attention(batch_first)
    if not batch_first and inputs[0].dim() == 3:
        turned = {id(one): one.transpose(0, 1) for one in inputs}
        inputs = tuple(turned[id(one)] for one in inputs)
    student = quantize_in_place(copy.deepcopy(model), {})
    assert isinstance(student[0], QuantTorchAttention)
    enable_quantizers(student, False)
    for ours, theirs in zip(student[0](*inputs, **options), model[0](*inputs, **options), strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("norm_first", [True, False], ids=["norm-first", "norm-last"])
@pytest.mark.parametrize("stacked", [True, False], ids=["encoder", "layer"])
@torch.no_grad()
def test_encoder_layers_run_their_quantizers(norm_first, stacked):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    model = nn.ModuleList([nn.TransformerEncoder(layer, 2) if stacked else layer])
    random_weights(model)
    expected = model[0](QUERY)
    student = quantize_in_place(copy.deepcopy(model), {})
    student.load_state_dict(model.state_dict(), strict=False)
    enable_quantizers(student, False)
    torch.testing.assert_close(student[0](QUERY), expected, **CLOSE)
    enable_quantizers(student, True)
    with calibrating(student):
        student[0](QUERY)
    linear = [one for one in student.modules() if isinstance(one, nn.Linear)]
    # the packed projection, the output's and two of the feed-forward part
    assert len(linear) == (8 if stacked else 4) and all(isinstance(one, QuantLinear) for one in linear)
    assert all(bool(one.input_quantizer.initialized) for one in linear)
    assert 0 < (student[0](QUERY) - expected).norm() < 0.1 * expected.norm()


def padded_encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = random_weights(nn.ModuleList([nn.TransformerEncoder(layer, 2)])).eval()
    return model, torch.arange(6).repeat(2, 1) >= torch.tensor([[4], [6]])


@torch.no_grad()
def test_a_quantized_encoder_takes_a_padding_mask():
    model, padding = padded_encoder()
    expected = model[0](QUERY, src_key_padding_mask=padding)
    student = quantize_in_place(copy.deepcopy(model), {})
    enable_quantizers(student, False)
    found = student[0](QUERY, src_key_padding_mask=padding)
    # torch's fast path gives 0 at padded positions
    torch.testing.assert_close(found[~padding], expected[~padding], **CLOSE)


@torch.no_grad()
def test_a_tapped_encoder_takes_a_padding_mask():
    model, padding = padded_encoder()
    expected = model[0](QUERY, src_key_padding_mask=padding)
    with AttentionTaps(model) as taps:
        found = model[0](QUERY, src_key_padding_mask=padding)
        layers = [one.layer for one in taps.take()]
    assert layers == ["0.layers.0.self_attn", "0.layers.1.self_attn"]
    torch.testing.assert_close(found[~padding], expected[~padding], **CLOSE)
    assert model[0].use_nested_tensor
    torch.testing.assert_close(model[0](QUERY, src_key_padding_mask=padding), expected)


def test_a_quantized_attention_has_torchs_attributes():
    model = attention(True)
    student = quantize_in_place(copy.deepcopy(model), {})
    for key in ("embed_dim", "num_heads", "head_dim", "dropout", "kdim", "vdim", "bias_k", "bias_v", "add_zero_attn"):
        assert getattr(student[0], key) == getattr(model[0], key)
    torch.testing.assert_close(student[0].in_proj_weight, model[0].in_proj_weight)


def test_its_tokens_are_attention_times_value():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.ModuleList([random_weights(layer)])
    before = layer(QUERY)
    x = QUERY.clone().requires_grad_()
    with AttentionTaps(model) as taps:
        during = layer(x)
        (tokens,) = taps.take()
    torch.testing.assert_close(during, before, **CLOSE)
    q, k, v = (
        (QUERY @ weight.T + bias).unflatten(2, (2, 8)).transpose(1, 2)
        for weight, bias in zip(
            layer.self_attn.in_proj_weight.chunk(3), layer.self_attn.in_proj_bias.chunk(3), strict=True
        )
    )
    expected = ((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v).mean(1)
    torch.testing.assert_close(tokens.tokens[:, 0], expected, **CLOSE)
    assert "forward" not in layer.self_attn.__dict__
    (gradient,) = torch.autograd.grad(tokens.tokens.square().sum(), x)
    assert bool((gradient != 0).any())
