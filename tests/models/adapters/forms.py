"""Every form of attention that has an adapter, small, with inputs that bring out its padding, shift and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention as MmcvAttention
from mmdet.models.backbones.swin import ShiftWindowMSA as MmdetWindows
from mmpretrain.models.utils.attention import MultiheadAttention as MmpretrainAttention
from mmpretrain.models.utils.attention import ShiftWindowMSA as MmpretrainWindows
from mmpretrain.models.utils.attention import WindowMSAV2
from mmseg.models.backbones.swin import ShiftWindowMSA as MmsegWindows
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Attention as TimmAttention
from torch import nn

from tests.conftest import random_weights

CHANNELS, HEADS, TOKENS = 24, 3, 10


@dataclass
class Form:
    """An attention and how to call it.

    Attributes:
        build: Makes the float module.
        shape: Of its first input.
        kwargs: Its other arguments.
        inner: Where in it the attention itself lies.
        bias: Gives, from the inner attention and the arguments that it got, what is added to the scores.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kwargs: dict = field(default_factory=dict)
    inner: str = ""
    bias: Callable[[nn.Module, dict], torch.Tensor | float] = lambda module, kwargs: 0.0

    def module(self) -> nn.Module:
        """The module with random weights, in eval."""
        torch.manual_seed(0)
        return random_weights(self.build())

    def input(self) -> torch.Tensor:
        """Two images, or two sequences."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1))


def table_and_mask(module: nn.Module, kwargs: dict) -> torch.Tensor:
    """The relative position bias and the mask, ``(windows or 1, heads, n, n)``."""
    area = module.window_size[0] * module.window_size[1]
    if hasattr(module, "cpb_mlp"):
        table = 16 * torch.sigmoid(module.cpb_mlp(module.relative_coords_table).flatten(0, 2))
    else:
        table = module.relative_position_bias_table
    bias = table[module.relative_position_index.flatten()].view(area, area, -1).permute(2, 0, 1)[None]
    mask = kwargs.get("mask")
    return bias if mask is None else (bias + mask[:, None]).repeat(2, 1, 1, 1)


def windows(cls: type, size: tuple[int, int], shift: int = 0, **options) -> Form:
    """A ``ShiftWindowMSA`` with windows of 4x4."""
    build = partial(cls, CHANNELS, HEADS, 4, shift_size=shift, **options)
    return Form(build, (2, size[0] * size[1], CHANNELS), {"hw_shape": size}, "w_msa", table_and_mask)


def timm_windows(size: tuple[int, int], shift: int = 0, **options) -> Form:
    """A block of timm's Swin."""
    options = {"window_size": 4, "shift_size": shift, **options}
    build = partial(SwinTransformerBlock, CHANNELS, size, HEADS, **options)
    return Form(build, (2, *size, CHANNELS), {}, "attn", table_and_mask)


def timm_windows_v2(size: tuple[int, int], shift: int = 0, **options) -> Form:
    """A block of timm's SwinV2."""
    options = {"window_size": 4, "shift_size": shift, **options}
    build = partial(SwinTransformerV2Block, CHANNELS, size, HEADS, **options)
    return Form(build, (2, *size, CHANNELS), {}, "attn", table_and_mask)


def timm(kwargs: dict | None = None, bias: torch.Tensor | float = 0.0, **options) -> Form:
    """timm's global attention."""
    build = partial(TimmAttention, CHANNELS, HEADS, norm_layer=nn.LayerNorm, **options)
    return Form(build, (2, TOKENS, CHANNELS), kwargs or {}, "", lambda module, kwargs: bias)


def mmcv(kwargs: dict | None = None, bias: torch.Tensor | float = 0.0, batch_first: bool = True, **options) -> Form:
    """mmcv's attention around torch's."""
    build = partial(MmcvAttention, CHANNELS, HEADS, batch_first=batch_first, **options)
    shape = (2, TOKENS, CHANNELS) if batch_first else (TOKENS, 2, CHANNELS)
    return Form(build, shape, kwargs or {}, "", lambda module, kwargs: bias)


def drawn(*shape: int) -> torch.Tensor:
    """A fixed random tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def shut(mask: torch.Tensor) -> torch.Tensor:
    """Added to the scores: no way where the mask is True."""
    return torch.zeros(mask.shape).masked_fill(mask, -torch.inf)


# which pairs are cut; the diagonal never is, so that every token sees something
CUT = (drawn(TOKENS, TOKENS) > 0.5) & ~torch.eye(TOKENS, dtype=torch.bool)
UPPER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
ENDED = torch.arange(TOKENS).repeat(2, 1) >= torch.tensor([[7], [10]])
MMPRETRAIN = partial(MmpretrainAttention, CHANNELS, HEADS)
SEQUENCE = (2, TOKENS, CHANNELS)

WINDOW_FORMS = {
    f"{library}-{case}": windows(
        cls, size, shift, **({"pad_small_map": True} if library.startswith("mmpretrain") else {})
    )
    for library, cls in (
        ("mmdet", MmdetWindows),
        ("mmseg", MmsegWindows),
        ("mmpretrain", MmpretrainWindows),
        ("mmpretrain-v2", partial(MmpretrainWindows, window_msa=WindowMSAV2)),
    )
    for case, size, shift in (
        ("plain", (8, 12), 0),
        ("shifted", (8, 12), 2),
        ("padded", (7, 9), 0),
        ("shifted-padded", (7, 9), 2),
        ("below-a-window", (3, 5), 1),
    )
} | {
    "mmpretrain-one-window-unshifted": windows(MmpretrainWindows, (4, 8), 2),
    "timm-plain": timm_windows((8, 12)),
    "timm-shifted": timm_windows((8, 12), 2),
    "timm-padded": timm_windows((7, 9)),
    "timm-shifted-padded": timm_windows((7, 9), 2),
    "timm-oblong": timm_windows((8, 10), window_size=(4, 2), shift_size=(2, 1)),
    "timm-one-way": timm_windows((4, 10), shift=2),
    "timm-own-head-width": timm_windows((8, 8), head_dim=6),
    "timm-any-size": timm_windows((7, 9), 2, dynamic_mask=True),
    "mmpretrain-v2-one-window-unshifted": windows(MmpretrainWindows, (4, 8), 2, window_msa=WindowMSAV2),
    "mmpretrain-v2-pretrained-window": windows(
        MmpretrainWindows, (8, 8), 2, window_msa=WindowMSAV2, pretrained_window_size=(3, 3)
    ),
    "mmpretrain-v2-no-bias": windows(MmpretrainWindows, (8, 8), window_msa=WindowMSAV2, qkv_bias=False),
    "timm-v2-plain": timm_windows_v2((8, 12)),
    "timm-v2-shifted": timm_windows_v2((8, 12), 2),
    "timm-v2-padded": timm_windows_v2((7, 9)),
    "timm-v2-shifted-padded": timm_windows_v2((7, 9), 2),
    "timm-v2-below-a-window": timm_windows_v2((3, 5), 1),
    "timm-v2-below-a-window-padded": timm_windows_v2((3, 5), 1, always_partition=True),
    "timm-v2-oblong": timm_windows_v2((8, 10), window_size=(4, 2), shift_size=(2, 1)),
    "timm-v2-one-way": timm_windows_v2((4, 10), shift=2),
    "timm-v2-any-size": timm_windows_v2((7, 9), 2, dynamic_mask=True),
    "timm-v2-pretrained-window": timm_windows_v2((8, 8), 2, pretrained_window_size=3),
    "timm-v2-no-bias": timm_windows_v2((8, 8), qkv_bias=False),
}
SELF_FORMS = {
    "mmpretrain-vit": Form(MMPRETRAIN, SEQUENCE),
    "mmpretrain-vit-layer-scale": Form(partial(MMPRETRAIN, layer_scale_init_value=0.1, qkv_bias=False), SEQUENCE),
    "mmpretrain-vit-own-scale": Form(partial(MMPRETRAIN, qk_scale=0.3), SEQUENCE),
    "mmpretrain-vit-value-shortcut": Form(
        partial(MmpretrainAttention, CHANNELS, 1, input_dims=30, v_shortcut=True), (2, TOKENS, 30)
    ),
    "timm-vit": timm(qkv_bias=True),
    "timm-vit-norms": timm(qk_norm=True, scale_norm=True),
    "timm-vit-own-head-width": timm(attn_head_dim=6, dim_out=20),
    "timm-vit-gated": timm(gated=True),
    "timm-vit-added-mask": timm({"attn_mask": drawn(2, HEADS, TOKENS, TOKENS)}, drawn(2, HEADS, TOKENS, TOKENS)),
    "timm-vit-boolean-mask": timm({"attn_mask": ~CUT}, shut(CUT)),
    "timm-vit-causal": timm({"is_causal": True}, shut(UPPER)),
    "mmcv-vit": mmcv({"identity": drawn(*SEQUENCE)}),
    "mmcv-vit-no-bias": Form(partial(MmcvAttention, CHANNELS, HEADS, batch_first=True, bias=False), SEQUENCE),
    "mmcv-sequence-first": mmcv(batch_first=False),
    "mmcv-boolean-mask": mmcv({"attn_mask": CUT}, shut(CUT)),
    "mmcv-mask-a-head": mmcv(
        {"attn_mask": drawn(2 * HEADS, TOKENS, TOKENS)}, drawn(2 * HEADS, TOKENS, TOKENS).view(2, HEADS, TOKENS, TOKENS)
    ),
    "mmcv-padded-keys": mmcv({"key_padding_mask": ENDED}, shut(ENDED)[:, None, None]),
}
# no self-attention: quantized, but without patches to tap
OTHER_FORMS = {
    "mmcv-cross": mmcv({"key": drawn(2, 6, CHANNELS)}),
    "mmcv-position": mmcv({"query_pos": drawn(*SEQUENCE)}),
    "mmcv-cross-position": mmcv({"key": drawn(2, 6, CHANNELS), "key_pos": drawn(2, 6, CHANNELS)}),
}


def parametrize(*forms: dict[str, Form]) -> pytest.MarkDecorator:
    """Over these forms, by name."""
    every = {name: form for some in forms for name, form in some.items()}
    return pytest.mark.parametrize("form", every.values(), ids=every.keys())
