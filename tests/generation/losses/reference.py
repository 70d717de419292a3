"""Plain double-precision forms of the formulas, with loops and autograd, to test the package against.

Similarities are computed one by one, densities point by point, variances in two passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from psaq_mm.generation import AttentionTokens

VARIANCE_EPS = 1e-6


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def image_similarities(layer: AttentionTokens, image: int, variant: str) -> Tensor:
    """All similarities that count for one image of one layer, shape (M,)."""
    tokens = layer.tokens[image].double()
    found = []
    for group in range(tokens.shape[0]):
        first = 1 if variant == "v1" or layer.has_class_token else 0
        for i in range(first, tokens.shape[1]):
            for j in range(first, tokens.shape[1]):
                if variant != "v1":
                    if i >= j:
                        continue
                    if layer.regions is not None:
                        a, b = int(layer.regions[group, i]), int(layer.regions[group, j])
                        if a == -1 or b == -1 or a != b:
                            continue
                found.append(cosine(tokens[group, i], tokens[group, j]))
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def trapezoid(y: Sequence[Tensor], t: Sequence[float]) -> Tensor:
    return torch.stack([(y[k] + y[k + 1]) / 2 * (t[k + 1] - t[k]) for k in range(len(t) - 1)]).sum()


def density(samples: Tensor, t: float, bandwidth: float) -> Tensor:
    kernels = torch.exp(-((t - samples) ** 2) / (2 * bandwidth**2)) / (bandwidth * math.sqrt(2 * math.pi))
    return kernels.sum() / len(samples)


def kde_entropy(samples: Tensor, grid: Sequence[float], bandwidth: float) -> Tensor:
    densities = [density(samples, t, bandwidth) for t in grid]
    return -trapezoid([f * torch.log(f) if f > 0 else torch.zeros_like(f) for f in densities], grid)


def v1_entropy(samples: Tensor, grid: Sequence[float]) -> Tensor:
    densities = [density(samples, t, 0.01) for t in grid]
    return -trapezoid([f * torch.log(f + 1e-4) for f in densities], grid)


def gaussian_entropy(samples: Tensor) -> Tensor:
    mean = samples.sum() / len(samples)
    variance = ((samples - mean) ** 2).sum() / len(samples)
    return 0.5 * torch.log(2 * math.pi * math.e * (variance + VARIANCE_EPS))


def even(low: float, high: float, points: int) -> list[float]:
    return [low + (high - low) * k / (points - 1) for k in range(points)]


def layer_entropy(layer: AttentionTokens, variant: str, points: int = 65) -> Tensor | None:
    """The entropies of one layer's images, shape (batch,); None if the layer has fewer than two pairs."""
    images = [image_similarities(layer, b, variant) for b in range(len(layer.tokens))]
    if len(images[0]) < 2:
        return None
    if variant == "gaussian":
        return torch.stack([gaussian_entropy(samples) for samples in images])
    if variant == "kde":
        return torch.stack([kde_entropy(samples, even(-1, 1, points), 2 / (points - 1)) for samples in images])
    low, high = min(s.min().item() for s in images), max(s.max().item() for s in images)
    return torch.stack([v1_entropy(samples, even(low, high, 10)) for samples in images])


def pse_loss(layers: Sequence[AttentionTokens], variant: str) -> Tensor:
    rows = [row for row in (layer_entropy(layer, variant) for layer in layers) if row is not None]
    means = [row.sum() / len(row) for row in rows]
    total = torch.stack(means).sum()
    return -total if variant == "v1" else -total / len(means)


def rms_differences(x: Tensor) -> Tensor:
    """Shape (batch, 4), pixel by pixel."""
    batch, channels, height, width = x.shape
    rows = []
    for b in range(batch):
        row = []
        for down, right in ((0, 1), (1, 0), (1, -1), (1, 1)):
            squares = []
            for c in range(channels):
                for i in range(height - down):
                    for j in range(width):
                        if 0 <= j + right < width:
                            squares.append((x[b, c, i + down, j + right] - x[b, c, i, j]) ** 2)
            row.append((torch.stack(squares).sum() / len(squares)).sqrt())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def v1_tv(x: Tensor) -> Tensor:
    """V1's total variation: the sum of four L2 norms over the whole batch."""
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., 1:, 1:] - x[..., :-1, :-1],
    )
    return torch.stack([difference.square().sum().sqrt() for difference in differences]).sum()


def relative_error(value: Tensor, expected: Tensor) -> float:
    """|value - expected| / |expected| in the L2 norm."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())
