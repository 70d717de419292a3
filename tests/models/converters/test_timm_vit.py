"""timm's ViT weights load into mmpretrain's backbone completely, and it computes the same."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.models import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmViT

from psaq_mm.errors import PSAQError
from psaq_mm.models import convert_timm_vit
from psaq_mm.models.converters.timm_vit import SCHEME
from tests.conftest import random_weights

SIZE, PATCH, WIDTH, DEPTH, HEADS = 64, 16, 24, 3, 3
ARCH = {"embed_dims": WIDTH, "num_layers": DEPTH, "num_heads": HEADS, "feedforward_channels": 4 * WIDTH}


def timm_vit() -> TimmViT:
    vit = TimmViT(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=5)
    return random_weights(vit, seed=1).eval()


def host_vit(**options) -> VisionTransformer:
    return VisionTransformer(
        arch=ARCH, img_size=SIZE, patch_size=PATCH, out_indices=(0, 2), out_type="featmap", **options
    )


@torch.no_grad()
def assert_same_maps(host: BaseModule, vit: TimmViT) -> None:
    """The maps of the first block, and of the last one behind the norm."""
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    host.eval()  # returns nothing
    first, last = host(image)
    tokens = vit.forward_features(image)
    shallow, _ = vit.forward_intermediates(image, indices=[0, 2], norm=False, intermediates_only=True)
    # two implementations of the same float32 sums
    assert torch.allclose(first, shallow, atol=1e-5)
    side = SIZE // PATCH
    assert torch.allclose(last, tokens[:, 1:].transpose(1, 2).reshape(2, WIDTH, side, side), atol=1e-5)


def test_the_backbone_computes_the_same():
    vit, host = timm_vit(), host_vit()
    host.load_state_dict(convert_timm_vit(vit.state_dict(), "vit.pth"), strict=True)
    assert_same_maps(host, vit)


def test_initialisation_reads_the_file(tmp_path):
    vit = timm_vit()
    torch.save({"model": vit.state_dict()}, tmp_path / "vit.pth")
    host = host_vit(init_cfg={"type": "Pretrained", "checkpoint": f"{SCHEME}{tmp_path / 'vit.pth'}"})
    host.init_weights()
    assert_same_maps(host, vit)


def test_a_missing_file_matters_to_training_only(tmp_path):
    host = host_vit(init_cfg={"type": "Pretrained", "checkpoint": f"{SCHEME}{tmp_path / 'vit.pth'}"})
    with pytest.raises(PSAQError, match=r"there is no checkpoint at .*vit\.pth: give the path of weights of timm's"):
        host.init_weights()


@pytest.mark.parametrize(
    "key", ["layers.0.ln1.weight", "dist_token", "blocks.0.ls1.gamma"], ids=["mmpretrain", "distilled", "layer scale"]
)
def test_other_names_are_refused(key):
    with pytest.raises(PSAQError, match=r"the checkpoint vit\.pth has a tensor .*: give one of timm's ViT or DeiT"):
        convert_timm_vit({key: torch.zeros(1)}, "vit.pth")


def test_the_state_is_not_changed():
    state = timm_vit().state_dict()
    before = list(state)
    convert_timm_vit(state, "vit.pth")
    assert list(state) == before and "head.weight" in before
