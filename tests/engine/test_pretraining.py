"""Models of self-supervised training: with masks, or with a moving average of the backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import psaq_mm
from psaq_mm.models import backbone_outputs
from psaq_mm.models.hosts import host_class
from psaq_mm.quantization import quantizers
from tests.conftest import random_weights

ARCH = {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64}
SIZE = 64
VIT = {"arch": ARCH, "img_size": SIZE, "patch_size": 16}
HEAD = {
    "type": "MoCoV3Head",
    "temperature": 0.2,
    "loss": {"type": "CrossEntropyLoss"},
    "predictor": {"type": "LinearNeck", "in_channels": 8, "out_channels": 8},
}
MASKED: dict[str, dict[str, Any]] = {
    "mae": {"type": "MAEViT", **VIT, "mask_ratio": 0.75},
    "maskfeat": {"type": "MaskFeatViT", **VIT},
    "beit": {"type": "BEiTPretrainViT", **VIT, "out_indices": [-1], "final_norm": True},
}


def moco(**parts: Any) -> dict[str, Any]:
    """The config of a MoCo v3 of a small transformer."""
    return {
        "type": "MoCoV3",
        "base_momentum": 0.01,
        "backbone": {"type": "MoCoV3ViT", "stop_grad_conv1": True, **VIT, "out_type": "cls_token"},
        "neck": {"type": "LinearNeck", "in_channels": 32, "out_channels": 8},
        "head": HEAD,
        **parts,
    }


def quantized(model: dict[str, Any], folder: Any) -> tuple[psaq_mm.Result, Config]:
    """A short run without data on random weights."""
    init_default_scope("mmpretrain")
    host_class(model["type"])
    cfg = Config({"model": model, "default_scope": "mmpretrain"})
    built = random_weights(MODELS.build(cfg.model.to_dict()))
    torch.save({"state_dict": built.state_dict()}, folder / "float.pth")
    options = {"dfq.generate.images": 2, "dfq.generate.batch_size": 2, "dfq.generate.steps": 1,
               "dfq.generate.generator.warmup": 0, "dfq.calibrate.images": 2, "dfq.distill.cycles": 0}  # fmt: skip
    result = psaq_mm.quantize(cfg, folder / "float.pth", image_size=(SIZE, SIZE), work_dir=folder / "run",
                              options=options, evaluate=False)  # fmt: skip
    return result, cfg


def test_a_moving_average_of_the_backbone_stays_float(tmp_path):
    result, _ = quantized(moco(), tmp_path)
    names = [name for name, _ in quantizers(result.model)]
    assert names and all(name.startswith("backbone.") for name in names)
    init_default_scope("mmpretrain")
    config, checkpoint = sorted((tmp_path / "run").rglob("*quantized*.p*"), key=lambda path: path.suffix == ".pth")[-2:]
    opened = MODELS.build(Config.fromfile(config).model)
    found = opened.load_state_dict(torch.load(checkpoint, weights_only=False)["state_dict"])
    assert not found.missing_keys and not found.unexpected_keys


@pytest.mark.parametrize("kind", MASKED)
def test_masked_backbones_are_computed_without_a_mask(kind):
    init_default_scope("mmpretrain")
    host_class("MAEViT")
    backbone = random_weights(MODELS.build(dict(MASKED[kind])))
    backbone.eval()  # which returns None for some
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Module()
    model.backbone = backbone
    with torch.no_grad():
        found, again = backbone_outputs(model, images), backbone_outputs(model, images)
        plain = type(backbone).__mro__[1].forward(backbone, images)
    # MAE would draw another mask at each call.
    assert [torch.equal(one, other) for one, other in zip(found, again, strict=True)] == [True] * len(plain)
    assert [torch.equal(one, other) for one, other in zip(found, plain, strict=True)] == [True] * len(plain)
