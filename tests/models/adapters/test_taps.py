"""Taps against what mmdet's own forward does: its masks, its padding, its attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.backbones import ResNet, SwinTransformer
from mmdet.models.backbones.swin import ShiftWindowMSA
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import AttentionTaps, check_image_size
from psaq_mm.models.adapters.taps import head_mean
from psaq_mm.models.adapters.windows.regions import window_regions
from tests.models.conftest import DEPTH


class Spy:
    """Keeps what each window attention was given."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.modules = [module.w_msa for module in model.modules() if isinstance(module, ShiftWindowMSA)]
        for module in self.modules:
            module.register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, _, args, kwargs):
        self.calls.append((args[0].detach(), kwargs.get("mask")))


def pairs_of_mmdet(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """Who may look at whom, ``(windows, n, n)``: both are real tokens (ones; mmdet pads with zeros), none masked."""
    attention = ShiftWindowMSA(1, 1, window, shift_size=shift)
    spy = Spy(attention)
    attention(torch.ones(1, height * width, 1), (height, width))
    tokens, mask = spy.calls[0]
    real = tokens[..., 0] == 1
    pairs = real[:, :, None] & real[:, None, :]
    return pairs if mask is None else pairs & (mask == 0)


def pairs_of_regions(regions: torch.Tensor) -> torch.Tensor:
    return (regions[:, :, None] == regions[:, None, :]) & (regions != -1)[:, :, None]


@pytest.mark.parametrize("shift", [0, 3], ids=["plain", "shifted"])
@pytest.mark.parametrize(
    "size",
    [(7, 7), (14, 21), (8, 8), (16, 20), (3, 5), (13, 7), (1, 1)],
    ids=["one-window", "whole-windows", "8x8", "16x20", "below-a-window", "one-side", "one-token"],
)
def test_regions_are_the_pairs_that_mmdet_does_not_mask(size, shift):
    regions = window_regions(*size, 7, shift)
    assert torch.equal(pairs_of_regions(regions), pairs_of_mmdet(*size, 7, shift))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_regions_of_any_geometry(data):
    window = data.draw(st.integers(2, 6))
    height, width, shift = (data.draw(st.integers(low, high)) for low, high in ((1, 14), (1, 14), (0, window - 1)))
    regions = window_regions(height, width, window, shift)
    assert torch.equal(pairs_of_regions(regions), pairs_of_mmdet(height, width, window, shift))


def tokens_by_hand(module: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """mmdet's ``WindowMSA.forward``, copied up to ``attn @ v``, then the mean over heads: ``(windows, n, d)``."""
    batch, count, channels = x.shape
    shape = (batch, count, 3, module.num_heads, channels // module.num_heads)
    q, k, v = module.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
    attention = q * module.scale @ k.transpose(-2, -1)
    size = module.window_size[0] * module.window_size[1]
    bias = module.relative_position_bias_table[module.relative_position_index.view(-1)].view(size, size, -1)
    attention = attention + bias.permute(2, 0, 1)
    if mask is not None:
        attention = attention.view(-1, len(mask), module.num_heads, count, count) + mask[:, None]
        attention = attention.view(-1, module.num_heads, count, count)
    return (attention.softmax(-1) @ v).mean(1)


@pytest.mark.parametrize("size", [(64, 64), (72, 88), (224, 224)], ids=["64", "72x88-padded", "224-whole-windows"])
@torch.no_grad()
def test_tokens_are_attention_times_value_averaged_over_heads(swin, size):
    spy, images = Spy(swin), torch.randn(2, 3, *size)
    with AttentionTaps(swin) as taps:
        swin(images)
        collected = taps.take()
        assert taps.take() == []
    assert len(collected) == len(spy.calls) == DEPTH
    assert [tokens.layer for tokens in collected] == [
        name for name, module in swin.named_modules() if isinstance(module, ShiftWindowMSA)
    ]
    for tokens, module, (x, mask) in zip(collected, spy.modules, spy.calls, strict=True):
        expected = tokens_by_hand(module, x, mask)
        assert tokens.tokens.shape[0] == 2 and not tokens.has_class_token
        # float32, two orders of the same sums
        torch.testing.assert_close(tokens.tokens.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_carry_regions_where_windows_are_not_whole(swin):
    with AttentionTaps(swin) as taps:
        swin(torch.randn(1, 3, 224, 224))
        plain, shifted = taps.take()[:2]
        swin(torch.randn(1, 3, 64, 64))
        padded = taps.take()[0]
    assert plain.regions is None
    assert torch.equal(shifted.regions, window_regions(56, 56, 7, 3))
    assert torch.equal(padded.regions, window_regions(16, 16, 7, 0))


def test_gradients_reach_the_images(swin):
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    with AttentionTaps(swin) as taps:
        swin(images)
        sum(tokens.tokens.square().sum() for tokens in taps.take()).backward()
    assert images.grad.abs().sum() > 0


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_outputs_stay_and_hooks_go(swin):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = swin(images)
        with AttentionTaps(swin) as taps:
            during = swin(images)
            assert hooks(swin) == 2 * DEPTH + 2  # the backbone and its first convolution count the images
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))
    assert hooks(swin) == 0 and taps.take() == []
    with pytest.raises(KeyError), AttentionTaps(swin):
        raise KeyError
    assert hooks(swin) == 0


def test_head_mean_by_hand():
    # one image, two windows of one token, two heads of width 2
    tokens = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    assert head_mean(tokens, images=1, heads=2).tolist() == [[[[2.0, 3.0]], [[6.0, 7.0]]]]


def test_an_unsupported_backbone_is_named_with_the_supported():
    with pytest.raises(UsageError) as error:
        AttentionTaps(ResNet(18))
    assert "ResNet" in str(error.value) and "mmdet's ShiftWindowMSA" in str(error.value)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (640, 640)], ids=str)
def test_images_that_fit(swin, size):
    check_image_size(swin, size)


@pytest.mark.parametrize(
    ("size", "near"),
    [((100, 128), "96x128"), ((0, 64), "32x64"), ((16, 16), "32x32"), ((64, 65), "64x64")],
    ids=str,
)
def test_images_that_do_not_fit(swin, size, near):
    with pytest.raises(UsageError, match=f"do not fit SwinTransformer.*multiples of 32, for example {near}"):
        check_image_size(swin, size)


def test_the_unit_follows_patches_and_stages():
    backbone = SwinTransformer(
        embed_dims=8, patch_size=2, strides=(2, 2, 2), depths=(1, 1, 1), num_heads=(1, 1, 1), out_indices=(0, 1, 2)
    )
    check_image_size(backbone, (40, 24))
    with pytest.raises(UsageError, match="multiples of 8"):
        check_image_size(backbone, (44, 24))
