"""Noise to start from: bounds, seeds, and the spectrum that fractal noise promises."""

from __future__ import annotations

import pytest
import torch

from psaq_mm.generation import GenerationError, fractal_noise, initial_images, rms_differences

LOW, HIGH = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
WIDE = (-1e3,) * 3, (1e3,) * 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", ["white", "fractal"])
def test_images_lie_within_the_bounds_and_follow_from_the_seed(start):
    images = initial_images(6, (24, 32), LOW, HIGH, seeded(), start)
    assert images.shape == (6, 3, 24, 32) and images.dtype == torch.float32
    low, high = torch.tensor(LOW).view(3, 1, 1), torch.tensor(HIGH).view(3, 1, 1)
    assert bool(((images >= low) & (images <= high)).all())
    assert torch.equal(images, initial_images(6, (24, 32), LOW, HIGH, seeded(), start))
    assert not torch.equal(images, initial_images(6, (24, 32), LOW, HIGH, seeded(1), start))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_spectrum_falls_with_the_exponent(exponent):
    images = fractal_noise(16, (128, 128), *WIDE, seeded(), exponent=(exponent, exponent))
    amplitude = torch.fft.rfft2(images).abs().mean((0, 1))  # (128, 65)
    frequency = torch.arange(2, 60)
    # A straight line through log amplitude over log frequency, along the rows of zero vertical frequency.
    x, y = frequency.float().log(), amplitude[0, 2:60].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    # 48 spectra averaged leave about 8 % noise on each of 58 points, hence 0.03 on the slope: four times that.
    assert slope == pytest.approx(-exponent, abs=0.12)


def test_the_contrast_is_the_standard_deviation():
    images = fractal_noise(16, (64, 64), *WIDE, seeded(), contrast=(0.5, 0.5)).double()
    inside = images[(images.abs() < WIDE[1][0]).all(3).all(2).all(1)]
    assert len(inside) > 4
    centred = inside - inside.mean((2, 3), keepdim=True)
    # Unclamped, it is exact but for float32, whose steps at a brightness of 1000 are 6e-5 wide.
    torch.testing.assert_close(centred.std((1, 2, 3)), torch.full((len(inside),), 0.5).double(), rtol=1e-3, atol=0)


def test_fractal_images_differ_in_smoothness_and_white_ones_do_not():
    spread = [
        float(rms_differences(initial_images(32, (48, 48), LOW, HIGH, seeded(), start)).mean(1).log().std())
        for start in ("white", "fractal")
    ]
    assert spread[1] > 10 * spread[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((LOW, HIGH, "pink"), "'pink' is unknown", id="unknown-start"),
        pytest.param((HIGH, LOW, "fractal"), "lower below upper", id="crossed-bounds"),
        pytest.param((LOW, HIGH[:2], "white"), "one value a channel", id="other-channels"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    low, high, start = arguments
    with pytest.raises(GenerationError, match=message):
        initial_images(1, (8, 8), low, high, seeded(), start)
