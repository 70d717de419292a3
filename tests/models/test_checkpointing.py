"""Activation checkpointing changes nothing: it is off, for every library's way of it."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch.utils.checkpoint import checkpoint

from psaq_mm.models import AttentionTaps, without_checkpointing
from tests.conftest import random_weights
from tests.models.test_backbones import ARCH, LAYERS, SIZE, SWIN, SWIN_V2, TIMM_SWIN, TIMM_VIT, outputs

CHECKPOINTED = {
    "mmdet-swin": ("mmdet", {"type": "SwinTransformer", **SWIN, "with_cp": True}),
    "mmseg-swin": ("mmseg", {"type": "SwinTransformer", **SWIN, "with_cp": True}),
    "mmseg-vit": ("mmseg", {"type": "VisionTransformer", "img_size": (SIZE, SIZE), **LAYERS, "with_cp": True}),
    "mmpretrain-swin": (
        "mmpretrain",
        {"type": "SwinTransformer", "arch": SWIN, "img_size": SIZE, "pad_small_map": True, "with_cp": True},
    ),
    "mmpretrain-swin-v2": (
        "mmpretrain",
        {"type": "SwinTransformerV2", "arch": SWIN_V2, "img_size": SIZE, "window_size": 2, "with_cp": True},
    ),
    "mmpretrain-timm-vit": ("mmpretrain", {"type": "TIMMBackbone", **TIMM_VIT}),
    "mmpretrain-timm-swin": ("mmpretrain", {"type": "TIMMBackbone", **TIMM_SWIN}),
}


def gradient(backbone: torch.nn.Module) -> torch.Tensor:
    """That of all tokens on an image."""
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with AttentionTaps(backbone) as taps:
        outputs(backbone, image)
        tokens = taps.take()
        loss = sum(one.tokens.square().mean() for one in tokens)
        (found,) = torch.autograd.grad(loss, image)
        # the other kind of checkpointing would run the hooks again in the backward pass
        assert not taps.take()
    return found


@pytest.mark.parametrize(("scope", "config"), CHECKPOINTED.values(), ids=CHECKPOINTED.keys())
def test_tokens_and_gradients_are_those_without_it(scope, config):
    init_default_scope(scope)
    backbone = random_weights_of(config)
    plain = gradient(random_weights_of({key: value for key, value in config.items() if key != "with_cp"}))
    if hasattr(backbone, "timm_model"):
        backbone.timm_model.set_grad_checkpointing(True)
    found = without_checkpointing(backbone)
    assert found and not without_checkpointing(backbone)
    assert torch.equal(gradient(backbone), plain) and bool(plain.any())


def random_weights_of(config: dict) -> torch.nn.Module:
    return random_weights(MODELS.build(copy.deepcopy(config)))


def test_tokens_without_gradient_are_an_error(recipe):
    """A way of checkpointing that nobody knows by its flag."""
    from psaq_mm.engine import DFQRunner
    from psaq_mm.errors import PSAQError

    runner = DFQRunner.from_cfg(recipe({"dfq.distill.cycles": 0}))
    runner.prepare()
    block = runner.teacher.backbone.stages[1].blocks[0]
    forward = block.forward
    block.forward = lambda *args: checkpoint(forward, *args, use_reentrant=True)
    with pytest.raises(PSAQError, match=r"tokens of 1 attention layers, first stages\.1.*carry no gradient"):
        runner.train()


def test_a_run_with_it_is_the_run_without_it(recipe, finished):
    from psaq_mm.engine import DFQRunner

    runner = DFQRunner.from_cfg(recipe({"model.backbone.with_cp": True}))
    runner.train()
    assert runner.pool.sha256() == finished.runner.pool.sha256()
    states = [torch.load(one.folder / "quantized.pth", weights_only=True) for one in (runner, finished.runner)]
    ours, theirs = (state["state_dict"] for state in states)
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_model_without_it_stays_as_it_is():
    init_default_scope("mmpretrain")
    backbone = {"type": "VisionTransformer", "arch": ARCH, "img_size": SIZE}
    assert without_checkpointing(random_weights_of(backbone)) == []
