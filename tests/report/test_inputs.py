"""Pictures of a user's folder, and generated images as the models get them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.models import pixel_units
from psaq_mm.report.inputs import host_batch, inputs_of_files, inputs_of_images, picture_files, sample_class
from tests.conftest import ROOT

SIZE = 64


@pytest.fixture(scope="module", params=["mask_rcnn_swin_nano", "upernet_deit_nano", "deit_nano"])
def cfg(request) -> Config:
    return Config.fromfile(ROOT / "configs" / "demo" / f"{request.param}.py")


@pytest.fixture(scope="module")
def model(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / name)
    (tmp_path / "c.png").mkdir()
    return tmp_path


def test_images_are_found_by_name(folder):
    assert [path.name for path in picture_files(folder)] == ["a.JPG", "b.png"]


@pytest.mark.parametrize("name", ["nowhere", "b.png", "c.png"], ids=["missing", "file", "empty"])
def test_a_folder_without_images_is_refused(folder, name):
    with pytest.raises(UsageError, match=f"the folder of pictures .*{name}"):
        picture_files(folder / name)


def test_a_generated_image_goes_back_into_the_network_as_it_was(model):
    """Up to the rounding of its pixels to integers."""
    units = pixel_units(model)
    image = units.to_network(torch.randn(1, 3, SIZE, SIZE).clamp(units.lower.max(), units.upper.min()))[0]
    batch = host_batch(image, model)
    assert isinstance(batch["data_samples"][0], sample_class(model))
    found = model.data_preprocessor(batch, False)["inputs"][0]
    # half a level, over the smallest standard deviation of ImageNet's pixels
    torch.testing.assert_close(found, image, rtol=0, atol=0.5 / 57.12 + 1e-4)


def test_generated_images_are_shown_in_rgb(model):
    """The demo's models take RGB; their preprocessors get BGR."""
    red = torch.zeros(3, SIZE, SIZE)
    red[0] = 255.0
    mean, std = (getattr(model.data_preprocessor, key).view(-1, 1, 1) for key in ("mean", "std"))
    (one,) = inputs_of_images(((red - mean) / std)[None], model)
    assert one.pixels[0, 0].tolist() == [255, 0, 0] and one.path is None
    assert one.batch["inputs"][0][:, 0, 0].tolist() == [0, 0, 255]


def test_files_go_through_the_test_pipeline(cfg, model, folder):
    found = inputs_of_files(picture_files(folder), cfg, model)
    assert [one.name for one in found] == ["a.JPG", "b.png"]
    for one in found:
        assert one.pixels.shape == (SIZE, SIZE, 3) and np.abs(one.pixels[0, 0].astype(int) - [255, 0, 0]).max() < 3
        assert one.batch["inputs"][0].dtype == torch.uint8
        assert isinstance(one.batch["data_samples"][0], sample_class(model))


def test_files_that_cannot_be_read_are_left_out(cfg, model, folder):
    (folder / "0broken.png").write_bytes(b"no image")
    lines: list[str] = []
    found = inputs_of_files(picture_files(folder), cfg, model, lines.append)
    assert [one.name for one in found] == [path.name for path in picture_files(folder)[1:]]
    assert len(lines) == 1 and lines[0].startswith("0broken.png is left out of the report (")
    for path in picture_files(folder)[1:]:
        path.unlink()
    with pytest.raises(PSAQError, match="none of the pictures can be read: give others to --pictures"):
        inputs_of_files(picture_files(folder), cfg, model, lines.append)


@pytest.mark.parametrize("test_set", [None, {"dataset": {}}], ids=["none", "no-pipeline"])
def test_a_config_without_a_test_pipeline_is_named(folder, test_set):
    cfg = Config({"test_dataloader": test_set})
    with pytest.raises(PSAQError, match="no test pipeline"):
        inputs_of_files(picture_files(folder), cfg, SimpleNamespace())


def test_models_of_timm_get_the_image_itself():
    from psaq_mm.in_memory.models import as_teacher

    timm = pytest.importorskip("timm")
    options = {"img_size": SIZE, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = as_teacher(timm.create_model("vit_tiny_patch16_224", **options))
    images = torch.randn(2, 3, SIZE, SIZE)
    found = inputs_of_images(images, model)
    assert torch.equal(torch.cat([one.batch for one in found]), images)
