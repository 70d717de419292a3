"""Procedurally drawn scenes with instance masks, and pictures of one object.

A scene is a textured background with unlabelled clutter, on which between 3 and 9 textured objects of
:data:`CLASSES` are drawn in random order, so that later ones hide parts of earlier ones. The seed determines the
scene completely.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "ring", "square", "triangle", "star")
HUE_SPREAD = 0.07
SUPERSAMPLE = 3
MIN_RADIUS, MAX_RADIUS = 5.0, 36.0
MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE = 24, 0.3
# Single objects: radius and distance from the centre as shares of the picture's size, and spread of the hue.
OBJECT_RADII, OBJECT_SHIFT, OBJECT_HUE_SPREAD = (0.22, 0.42), 0.12, 0.055


@dataclass(frozen=True)
class Scene:
    """A picture and its annotations.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: ``(n, H, W)`` bool, the visible part of each object.
        labels: ``(n,)`` indices into :data:`CLASSES`.
        unlabelled: ``(H, W)`` bool, visible pixels of objects that are not in ``masks``.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    unlabelled: np.ndarray


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    ticks = np.arange(size, dtype=np.float32)
    rows, columns = np.meshgrid(ticks, ticks, indexing="ij")
    return rows, columns


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Noise of a given coarseness in [-1, 1], ``(size, size)``: random values on a grid, interpolated."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32), mode="F")
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _texture(rng: np.random.Generator, size: int, contrast: float, hue: float | None = None) -> np.ndarray:
    """One colour under a pattern (stripes, checks, noise, gradient or none), ``(size, size, 3)`` in [0, 1]."""
    rows, columns = _grid(size)
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    period = rng.uniform(3.5, 16.0)
    kind = rng.integers(5)
    if kind == 0:
        pattern = np.sin(2 * np.pi * along / period)
    elif kind == 1:
        pattern = np.sign(np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period))
    elif kind == 2:
        pattern = _smooth_noise(rng, size, int(rng.integers(4, 40)))
    elif kind == 3:
        pattern = 2 * (along - along.min()) / (np.ptp(along) + 1e-6) - 1
    else:
        pattern = np.zeros((size, size), np.float32)
    base, other = rng.uniform(0.05, 0.95, 3), rng.uniform(-1, 1, 3)
    if hue is not None:
        base = np.array(colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.45, 1.0), rng.uniform(0.5, 1.0)))
    picture = base + contrast * pattern[..., None] * other
    return np.clip(picture + rng.normal(0, 0.03, (size, size, 1)), 0, 1).astype(np.float32)


def _polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon, or a star where ``inner`` (the radius of every other corner) is below 1."""
    count = corners if inner == 1.0 else 2 * corners
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.where(np.arange(count) % 2 == 0, 1.0, inner) if inner != 1.0 else np.ones(count)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


_OUTLINES = {
    "square": _polygon(4),
    "triangle": _polygon(3),
    "star": _polygon(5, inner=0.45),
}


def _shape_mask(name: str, rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """The full outline of an object, ``(size, size)`` bool."""
    big = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE))
    pen = ImageDraw.Draw(big)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def ellipse(middle: np.ndarray, r: float, fill: int) -> None:
        x, y = middle * SUPERSAMPLE
        r *= SUPERSAMPLE
        pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    if name in _OUTLINES:
        stretch = np.array([1.0, rng.uniform(0.75, 1.0)])
        points = (_OUTLINES[name] * stretch) @ rotation.T * radius + centre
        pen.polygon([tuple(point) for point in points * SUPERSAMPLE], fill=255)
    else:
        ellipse(centre, radius, 255)
        if name == "ring":
            ellipse(centre, radius * rng.uniform(0.45, 0.6), 0)
    small = big.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small) > 127


def _clutter(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Unlabelled lines and blots on the background."""
    size = picture.shape[0]
    image = Image.fromarray((picture * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 7))):
        colour = tuple(int(c) for c in rng.integers(10, 245, 3))
        ends = rng.uniform(0, size, 4)
        if rng.random() < 0.6:
            pen.line(list(ends), fill=colour, width=int(rng.integers(1, 4)))
        else:
            r = rng.uniform(1, 3.5, 2)
            pen.ellipse([ends[0] - r[0], ends[1] - r[1], ends[0] + r[0], ends[1] + r[1]], fill=colour)
    return np.asarray(image).astype(np.float32) / 255


def _painted(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, label: int, spread: float) -> np.ndarray:
    """The picture with a textured object on it."""
    # The hues of neighbouring classes overlap, so that a model needs both colour and outline.
    hue = label / len(CLASSES) + rng.normal(0, spread)
    return np.where(mask[..., None], _texture(rng, picture.shape[0], contrast=0.2, hue=hue), picture)


def _lit(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The finished picture, uint8, in uneven light."""
    brightness = rng.uniform(0.75, 1.15) + 0.15 * _smooth_noise(rng, picture.shape[0], 3)[..., None]
    return (np.clip(picture * brightness, 0, 1) * 255).astype(np.uint8)


def draw_scene(seed: int | tuple[int, ...], size: int = 128) -> Scene:
    """Draw one scene.

    Args:
        seed: Seed of the scene; equal seeds give equal bits.
        size: Height and width in pixels.

    Returns:
        The scene. Objects of which fewer than 24 pixels or less than 30 % are visible are not annotated.
    """
    rng = np.random.default_rng(seed)
    picture = _clutter(rng, _texture(rng, size, contrast=0.3))
    masks: list[np.ndarray] = []
    areas: list[int] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(3, 10))):
        label = int(rng.integers(len(CLASSES)))
        # log-uniform, so that small objects are as common as large ones
        radius = float(np.exp(rng.uniform(np.log(MIN_RADIUS), np.log(MAX_RADIUS)))) * size / 128
        centre = rng.uniform(0.4 * radius, size - 0.4 * radius, 2)
        mask = _shape_mask(CLASSES[label], rng, size, centre, radius)
        if mask.sum() < MIN_VISIBLE_PIXELS:
            continue
        picture = _painted(rng, picture, mask, label, HUE_SPREAD)
        masks = [other & ~mask for other in masks] + [mask]
        areas.append(int(mask.sum()))
        labels.append(label)
    image = _lit(rng, picture)
    keep = [
        i
        for i, mask in enumerate(masks)
        if mask.sum() >= MIN_VISIBLE_PIXELS and mask.sum() >= MIN_VISIBLE_SHARE * areas[i]
    ]
    visible = np.stack([masks[i] for i in keep]) if keep else np.zeros((0, size, size), bool)
    painted = np.logical_or.reduce(masks, axis=0) if masks else np.zeros((size, size), bool)
    return Scene(
        image, visible, np.array([labels[i] for i in keep], dtype=np.int64), unlabelled=painted & ~visible.any(0)
    )


def draw_object(seed: int | tuple[int, ...], size: int = 64) -> tuple[np.ndarray, int]:
    """Draw one object near the centre of a background like that of a scene.

    Args:
        seed: Seed of the picture; equal seeds give equal bits.
        size: Height and width in pixels.

    Returns:
        The picture, ``(size, size, 3)`` uint8, RGB, and the object's index in :data:`CLASSES`.
    """
    rng = np.random.default_rng(seed)
    picture = _clutter(rng, _texture(rng, size, contrast=0.3))
    label = int(rng.integers(len(CLASSES)))
    radius = float(rng.uniform(*OBJECT_RADII)) * size
    centre = size * (0.5 + rng.uniform(-OBJECT_SHIFT, OBJECT_SHIFT, 2))
    mask = _shape_mask(CLASSES[label], rng, size, centre, radius)
    return _lit(rng, _painted(rng, picture, mask, label, OBJECT_HUE_SPREAD)), label
