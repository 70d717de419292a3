"""Backbones without an adapter: which blocks they have, and their tokens."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import AttentionTaps, BlockTaps, artifact_model, limitation, quantize_in_place, taps_of
from psaq_mm.models.adapters.generic import blocks_of, map_tokens
from psaq_mm.quantization import QuantConv2d, QuantLinear, QuantPolicy, calibrating, coverage
from tests.conftest import random_weights

# library, config, how many blocks, and what the first is called
BACKBONES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "mmdet-resnet": ("mmdet", {"type": "ResNet", "depth": 18, "base_channels": 8}, 8, "layer1.0"),
    "mmdet-res2net": ("mmdet", {"type": "Res2Net", "depth": 50, "base_channels": 8}, 16, "layer1.0"),
    "mmpretrain-convnext": (
        "mmpretrain",
        {"type": "ConvNeXt", "arch": {"depths": [1, 1, 2, 1], "channels": [8, 16, 32, 64]}},
        5,
        "stages.0.0",
    ),
    "mmpretrain-vgg": ("mmpretrain", {"type": "VGG", "depth": 11}, 8, "features.0.conv"),
    "mmpretrain-mlp-mixer": (
        "mmpretrain",
        {
            "type": "MlpMixer",
            "arch": {"embed_dims": 16, "num_layers": 2, "tokens_mlp_dims": 8, "channels_mlp_dims": 32},
            "img_size": 64,
            "patch_size": 16,
        },
        2,
        "layers.0",
    ),
    "timm-resnet": ("mmpretrain", {"type": "TIMMBackbone", "model_name": "resnet10t"}, 4, "timm_model.layer1.0"),
}
EVERY = pytest.mark.parametrize(("scope", "config", "count", "first"), BACKBONES.values(), ids=BACKBONES.keys())
IMAGES = (2, 3, 64, 64)


def built(scope: str, config: dict[str, Any]) -> nn.Module:
    init_default_scope(scope)
    return random_weights(MODELS.build(copy.deepcopy(config)))


@EVERY
def test_images_are_made_from_the_outputs_of_blocks(scope, config, count, first):
    model = built(scope, config)
    names = [name for name, _ in blocks_of(model)]
    assert len(names) == count and names[0] == first
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with taps_of(model) as taps:
        assert isinstance(taps, BlockTaps)
        model(images)
        layers = taps.take()
    # the last maps may have fewer than 4 positions
    assert 0 < len(layers) <= count and layers[0].layer == first
    assert all(len(layer.tokens) == 2 and 4 <= layer.tokens.shape[2] <= 1024 for layer in layers)
    (gradient,) = torch.autograd.grad(sum(layer.tokens.square().sum() for layer in layers), images)
    assert bool((gradient.flatten(1).abs().sum(1) > 0).all())
    assert "products of two activations (if it has any) stay FP" in limitation(model)


@EVERY
def test_linear_and_convolution_layers_are_quantized_and_the_coverage_says_what_is_not(scope, config, count, first):
    teacher = built(scope, config)
    student = MODELS.build(artifact_model(ConfigDict(type="X", backbone=copy.deepcopy(config)), {}).backbone)
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.eval()
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with calibrating(student):
            student(images)
        ours, theirs = student(images), teacher(images)
    for one, other in zip(ours, theirs, strict=True):
        assert 0 < (one - other).norm() < 0.15 * other.norm()
    layers = [one for one in student.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    assert layers and all(isinstance(one, (QuantLinear, QuantConv2d)) for one in layers)
    reasons = {row.name: row.reason for row in coverage(student, QuantPolicy(), "backbone").rows}
    assert "no adapter declares the attention" in reasons["backbone.attention_products"]


class Unheard(nn.Module):
    """A backbone that nobody has heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(2))
        self.last = nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stem(images)
        for layer in self.mix:
            x = x + layer(x)
        return (self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),)


def test_a_class_of_ones_own_is_quantized():
    model = random_weights(Unheard())
    assert [name for name, _ in blocks_of(model)] == ["stem", "mix.0.0", "mix.1.0"]
    quantized = quantize_in_place(copy.deepcopy(model), {})
    assert isinstance(quantized.last, QuantLinear) and isinstance(quantized.mix[1][0], QuantConv2d)


def test_what_has_no_feature_map_is_refused():
    with pytest.raises(UsageError, match="Sequential has no feature map, which image generation needs: give images"):
        taps_of(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)))
    with taps_of(nn.Sequential(nn.Conv2d(3, 4, 8, 8))) as taps:
        taps._model(torch.zeros(1, 3, 8, 8))
        with pytest.raises(UsageError, match="feature map of at least 4 positions.*use larger images"):
            taps.take()


class Unfolded(nn.Module):
    """A stem without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(48, 8)
        branches = [nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2)]
        self.blocks = nn.ModuleList(Branch(one) for one in branches)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(nn.functional.unfold(images, 4, stride=4).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_features(images)


class Branch(nn.Module):
    """A residual branch."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Reordered(nn.Module):
    """A backbone that registers its stem last, and calls it by keyword."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.blocks = nn.ModuleList([Branch(block)])
        self.stem = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.stem(input=images))


class Classed(Unfolded):
    """One that puts class tokens in front of the patches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.cls_token_0 = nn.Parameter(torch.randn(shape))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(nn.functional.unfold(images, 4, stride=4).transpose(1, 2))
        x = torch.cat([self.cls_token_0.view(1, -1, 8).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("model", [Unfolded(), Reordered()], ids=["no-convolution", "stem-last"])
@pytest.mark.parametrize("call", ["positional", "keyword", "forward_features"])
@torch.no_grad()
def test_images_are_counted_in_every_pass(model, call):
    calls = {
        "positional": model,
        "keyword": lambda images: model(images=images),
        "forward_features": getattr(model, "forward_features", model),
    }
    before = calls[call](torch.ones(3, 3, 16, 32))
    with taps_of(model) as taps:
        # the method as the caller looks it up while the taps are attached
        run = getattr(model, "forward_features", model) if call == "forward_features" else calls[call]
        for count in (2, 3, 1):
            during = run(torch.ones(count, 3, 16, 32))
            assert (taps.images, taps.aspect) == (count, 0.5)
            if count == 3:
                assert torch.equal(during, before)
        assert [tuple(one.tokens.shape) for one in taps.take()[:: len(model.blocks)]] == [
            (count, 1, 32, 8) for count in (2, 3, 1)
        ]
    assert "forward_features" not in model.__dict__ and not model._forward_pre_hooks


def test_models_with_an_adapter_are_not_limited():
    model = built("mmseg", {"type": "VisionTransformer", "embed_dims": 16, "num_layers": 1, "num_heads": 1})
    assert limitation(model) is None and isinstance(taps_of(model), AttentionTaps)


@pytest.mark.parametrize(
    ("shape", "aspect", "expected"),
    [
        pytest.param((2, 8, 6, 6), 1.0, (2, 1, 36, 8), id="channels-first"),
        pytest.param((2, 6, 6, 8), 1.0, (2, 1, 36, 8), id="channels-last"),
        pytest.param((2, 6, 12, 8), 0.5, (2, 1, 72, 8), id="channels-last-oblong"),
        pytest.param((2, 8, 6, 12), 0.5, (2, 1, 72, 8), id="channels-first-oblong"),
        pytest.param((2, 8, 80, 40), 2.0, (2, 1, 1024, 8), id="large"),
        pytest.param((2, 16, 8), 1.0, (2, 1, 16, 8), id="sequence"),
        pytest.param((2, 1600, 8), 1.0, (2, 1, 1024, 8), id="long-sequence"),
        pytest.param((2, 64, 4, 256), 1.0, None, id="unfolded"),
        pytest.param((2, 8, 1, 1), 1.0, None, id="no-map"),
        pytest.param((3, 8, 6, 6), 1.0, None, id="other-batch"),
        pytest.param((2, 8), 1.0, None, id="vector"),
    ],
)
def test_maps_and_sequences_are_told_apart(shape, aspect, expected):
    found = map_tokens((torch.zeros(shape),), 2, aspect)
    assert found is None if expected is None else tuple(found.tokens.shape) == expected


def test_a_long_sequence_is_averaged_behind_its_class_token():
    output = torch.arange(2.0 + 2048).view(1, -1, 1)
    found = map_tokens(output, 1, 1.0, prefix=2)
    assert found.has_class_token and found.tokens[0, 0, 0].item() == 1
    assert torch.equal(found.patches().tokens.flatten(), 2.5 + 2 * torch.arange(1024.0))


@pytest.mark.parametrize("shape", [(1, 2, 8), (1, 8), (8,)], ids=["two", "one", "vector"])
@torch.no_grad()
def test_class_tokens_are_no_patches(shape):
    model = Classed(shape)
    with taps_of(model) as taps:
        model(torch.randn(2, 3, 32, 32))
        layers = taps.take()
    assert len(layers) == 2 and all(one.has_class_token for one in layers)
    assert [tuple(one.patches().tokens.shape) for one in layers] == [(2, 1, 64, 8)] * 2


def test_tokens_of_a_map_are_its_positions():
    output = torch.arange(2 * 3 * 4.0).view(1, 2, 3, 4)
    assert torch.equal(map_tokens(output, 1, 0.75).tokens[0, 0, 5], output[0, :, 1, 1])


class Pooled(nn.Module):
    """A convolutional network that pools its map by attention of one query."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(Branch(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))) for _ in range(2))
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.pool = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)
        return self.pool(self.query.expand(len(x), -1, -1), x, x)[0]


@torch.no_grad()
def test_attention_that_pools_yields_to_blocks(monkeypatch):
    messages = []
    log = SimpleNamespace(warning=messages.append)
    monkeypatch.setattr("mmengine.logging.MMLogger.get_current_instance", lambda: log)
    model = Pooled()
    taps = taps_of(model)
    for _ in range(2):
        with taps:
            assert taps.take() == []  # as after a pass for which memory ran out
            model(torch.randn(2, 3, 32, 32))
            assert [tuple(one.tokens.shape) for one in taps.take()] == [(2, 1, 64, 8)] * 2
    assert len(messages) == 1 and "Pooled has fewer than 4 patches" in messages[0]
    assert not any(one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one) for one in model.modules())


@torch.no_grad()
def test_attention_among_patches_counts():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Turned(), nn.TransformerEncoder(layer, 2))
    with taps_of(model) as taps:
        for _ in range(2):
            model(torch.randn(2, 3, 32, 32))
            names = [one.layer for one in taps.take()]
            assert names == ["3.layers.0.self_attn", "3.layers.1.self_attn"]
        assert not any(one._forward_hooks for one in model[3].layers)


class Turned(nn.Module):
    """Puts channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


@torch.no_grad()
def test_attention_whose_tap_does_not_attach_is_no_attention():
    model = Pooled(bias=True)
    assert "no adapter declares the attention of Pooled" in limitation(model)
    with taps_of(model) as taps:
        assert isinstance(taps, BlockTaps)
        model(torch.randn(2, 3, 32, 32))
        assert len(taps.take()) == 2
