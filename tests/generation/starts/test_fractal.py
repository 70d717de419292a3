"""The spectrum, the contrast and the variety of fractal noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from psaq_mm.generation import initial_images, rms_differences

LOW, HIGH = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
WIDE = (-1e3,) * 3, (1e3,) * 3


def draw(side: int, **options: Any) -> Tensor:
    return initial_images(16, (side, side), *WIDE, torch.Generator().manual_seed(0), "fractal", **options)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0], ids=str)
def test_the_spectrum_falls_with_the_exponent(exponent: float) -> None:
    images = draw(128, exponent=(exponent, exponent))
    amplitude = torch.fft.rfft2(images).abs().mean((0, 1))  # (128, 65)
    frequency = torch.arange(2, 60)
    # A straight line through log amplitude over log frequency, along the rows of zero vertical frequency.
    x, y = frequency.float().log(), amplitude[0, 2:60].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    # 48 spectra averaged leave about 8 % noise on each of 58 points, hence 0.03 on the slope: four times that.
    assert slope == pytest.approx(-exponent, abs=0.12)


def test_the_contrast_is_the_standard_deviation() -> None:
    images = draw(64, contrast=(0.5, 0.5)).double()
    inside = images[(images.abs() < WIDE[1][0]).all(3).all(2).all(1)]
    assert len(inside) > 4
    centred = inside - inside.mean((2, 3), keepdim=True)
    # Unclamped, it is exact but for float32, whose steps at a brightness of 1000 are 6e-5 wide.
    torch.testing.assert_close(centred.std((1, 2, 3)), torch.full((len(inside),), 0.5).double(), rtol=1e-3, atol=0)


def test_fractal_images_differ_in_smoothness_and_white_ones_do_not() -> None:
    spread = []
    for start in ("white", "fractal"):
        images = initial_images(32, (48, 48), LOW, HIGH, torch.Generator().manual_seed(0), start)
        spread.append(float(rms_differences(images).mean(1).log().std()))
    assert spread[1] > 10 * spread[0]
