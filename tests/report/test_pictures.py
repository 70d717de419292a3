"""Encoding below a limit, and class maps in colours."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from psaq_mm.report import pictures
from tests.report.conftest import noise


def opened(picture) -> Image.Image:
    head, _, data = picture.uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("size", [(40, 60), (700, 900), (3000, 400)], ids=str)
def test_any_picture_fits_its_limit(size):
    found = pictures.encoded(noise(*size), "t", "d", limit=20_000)
    # base64 has four characters for three bytes
    assert len(found.uri) <= 20_000 * 4 / 3 + 64
    image = opened(found)
    assert image.size == (found.width, found.height) and max(image.size) <= pictures.LONG_SIDE
    assert found.width / found.height == pytest.approx(size[1] / size[0], rel=0.05)


def test_small_pictures_are_enlarged_without_blur():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    found = np.asarray(opened(pictures.encoded(pixels, "t", "d")))
    assert found.shape == (256, 256, 3)
    # JPEG changes a pixel beside an edge by a few levels
    assert found[:, :126].max() < 30 and found[:, 130:].min() > 225


def test_few_classes_have_the_same_colour_in_every_picture():
    one, other = np.array([[0, 0, 1]]), np.array([[2, 2, 1]])
    colours = [pictures.class_colours([found], 3) for found in (one, other)]
    assert colours[0] == {0: pictures.COLOURS[0], 1: pictures.COLOURS[1]}
    assert colours[1][1] == colours[0][1] and list(colours[1]) == [2, 1]


def test_of_many_classes_the_largest_have_colours():
    found = np.repeat(np.arange(100, 110), np.arange(10, 0, -1))[None]
    colours = pictures.class_colours([found], 150)
    assert list(colours) == list(range(100, 110))
    assert list(colours.values()) == [*pictures.COLOURS, *[pictures.OTHER] * 3]
    assert pictures.class_colours([found], 0) == colours


def test_classes_are_painted_over_grey():
    classes = np.array([[3, 255]])
    pixels = np.full((1, 2, 3), 100, np.uint8)
    drawn = pictures.drawn_classes(pixels, classes, {3: "#000000", 255: "#ff0000"})
    # 0.6 of the colour and 0.4 of the grey
    assert drawn.tolist() == [[[40, 40, 40], [193, 40, 40]]]


def test_differences_are_dark_red():
    pixels = np.full((1, 2, 3), 255, np.uint8)
    drawn = pictures.drawn_differences(pixels, np.array([[1, 2]]), np.array([[1, 3]]))
    assert drawn.tolist() == [[[255, 255, 255], [139, 26, 0]]]
