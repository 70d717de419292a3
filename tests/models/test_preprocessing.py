"""Images in units of their own: whatever the preprocessor does, the same pixels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.models import image_channels, pixel_bounds, pixel_units, takes_rgb
from psaq_mm.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD


def model(mean=None, std=None, channels=3, rgb=True, inner=False):
    preprocessor = SimpleNamespace(_enable_normalize=mean is not None, _channel_conversion=rgb)
    if mean is not None:
        preprocessor.mean, preprocessor.std = (torch.tensor(one).view(-1, 1, 1) for one in (mean, std))
    if inner:
        module = nn.Module()
        module.__dict__.update(preprocessor.__dict__)
        outer = nn.Module()
        outer.data_preprocessor = module
        preprocessor = outer
    return SimpleNamespace(data_preprocessor=preprocessor, backbone=nn.Sequential(nn.Conv2d(channels, 2, 1)))


FORMS = {
    "imagenet": dict(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "none": {},
    "half": dict(mean=[127.5] * 3, std=[127.5] * 3),
    "integers": dict(mean=[127, 127, 127], std=[128, 128, 128]),
    "one-value": dict(mean=[100.0], std=[50.0]),
    "caffe": dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], rgb=False),
    "divided-by-255": dict(mean=[0.0] * 3, std=[255.0] * 3),
    "branches": dict(mean=[100.0] * 3, std=[50.0] * 3, inner=True),
    "grey": dict(mean=[40.0], std=[20.0], channels=1),
    "grey-none": dict(channels=1),
    "two-dates": dict(mean=[*IMAGENET_MEAN] * 2, std=[*IMAGENET_STD] * 2, channels=6),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_same_images_are_the_same_pixels_whatever_the_preprocessor(form):
    ours = model(**form)
    units = pixel_units(ours)
    channels = image_channels(ours.backbone)
    assert len(units.lower) == len(units.upper) == channels
    z = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1.5, 1.5)
    x = units.to_network(z)
    low, high = pixel_bounds(ours)
    pixels = 255 * (x - low.view(-1, 1, 1)) / (high - low).view(-1, 1, 1)
    if channels == 3:
        order = [0, 1, 2] if takes_rgb(ours) else [2, 1, 0]
        m, s = (torch.tensor(one)[order].view(-1, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    else:
        m, s = (torch.tensor(one).mean() for one in (IMAGENET_MEAN, IMAGENET_STD))
    # float32 around 255
    torch.testing.assert_close(pixels, z * s + m, atol=1e-3, rtol=0)
    torch.testing.assert_close(units.from_network(x), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(units.to_network(units.lower.view(1, -1, 1, 1))[0, :, 0, 0], low, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(units.to_network(units.upper.view(1, -1, 1, 1))[0, :, 0, 0], high, atol=1e-4, rtol=1e-5)


def test_imagenets_own_normalisation_changes_no_bit():
    units, z = pixel_units(model(**FORMS["imagenet"])), torch.randn(1, 3, 2, 2)
    assert units.identical and units.to_network(z) is z and units.from_network(z) is z


@pytest.mark.parametrize(
    ("mean", "std", "peak"),
    [
        pytest.param([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1.0, id="fractions"),
        pytest.param([0.5] * 3, [0.5] * 3, 1.0, id="halves"),
        pytest.param([0.0] * 3, [1.0] * 3, 255.0, id="identity"),
        pytest.param([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], 255.0, id="8-bits"),
        pytest.param([1000.0] * 3, [400.0] * 3, 4095.0, id="12-bits"),
        pytest.param([20000.0] * 3, [9000.0] * 3, 65535.0, id="16-bits"),
    ],
)
def test_the_largest_pixel_is_what_mean_and_std_are_meant_for(mean, std, peak):
    _, high = pixel_bounds(model(mean, std))
    torch.testing.assert_close(high * torch.tensor(std) + torch.tensor(mean), torch.full((3,), peak), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("config", "channels"),
    [
        ({"type": "mmdet.CSPDarknet", "widen_factor": 0.125, "deepen_factor": 0.33}, 3),
        ({"type": "mmdet.ResNet", "depth": 18, "in_channels": 1}, 1),
    ],
    ids=["focus", "gray"],
)
def test_channels_of_images_are_those_before_pixels_are_merged(config, channels):
    init_default_scope("mmdet")
    backbone = MODELS.build(config)
    assert image_channels(backbone) == channels
    backbone(torch.zeros(1, channels, 64, 64))
