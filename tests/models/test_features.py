"""What teacher and student are compared on."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import calibration_function, output_function, quantize_in_place
from psaq_mm.models.adapters.declaration import transformer_blocks
from tests.conftest import random_weights
from tests.models.families import CASES
from tests.quantization.switching import enable_quantizers


@pytest.fixture
def teacher(tiny_recipe) -> nn.Module:
    init_default_scope("mmdet")
    return random_weights(MODELS.build(copy.deepcopy(tiny_recipe.model)))


@pytest.fixture
def other(teacher) -> nn.Module:
    """Another model of the same class, whose own proposals lie elsewhere."""
    return random_weights(copy.deepcopy(teacher), seed=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


@torch.no_grad()
def test_backbone_and_neck_are_the_models_own_maps(teacher, images):
    maps = output_function("backbone", teacher)(teacher, images)
    assert [tuple(level.shape) for level in maps] == [(2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(maps, teacher.backbone(images), strict=True))
    pyramid = output_function("neck", teacher)(teacher, images)
    assert all(torch.equal(a, b) for a, b in zip(pyramid, teacher.extract_feat(images), strict=True))


@torch.no_grad()
def test_a_single_map_becomes_a_list():
    model = nn.Module()
    model.backbone = nn.Identity()
    image = torch.randn(1, 3, 8, 8)
    assert output_function("backbone", model)(model, image) == [image]


@torch.no_grad()
def test_logits_are_objectness_then_class_scores(teacher, images):
    logits = output_function("logits", teacher)(teacher, images)
    # three anchors a place on five levels, then five classes and the background on each proposal
    assert [level.shape[1] for level in logits[:5]] == [3] * 5
    assert len(logits) == 6 and logits[5].shape[1] == 6
    assert 0 < len(logits[5]) <= 2 * 64


@torch.no_grad()
def test_both_are_asked_about_the_teachers_proposals(teacher, other, images):
    outputs = output_function("logits", teacher)
    theirs, ours = outputs(teacher, images), outputs(other, images)
    assert [level.shape for level in theirs] == [level.shape for level in ours]
    rois = outputs.boxes(images).stages[0]
    features = other.extract_feat(images)
    extractor = other.roi_head.bbox_roi_extractor
    expected = other.roi_head.bbox_head(extractor(features[: extractor.num_inputs], rois))[0]
    # the same computation: equal to the bit
    assert torch.equal(ours[-1], expected)
    assert not torch.allclose(ours[-1], theirs[-1])


@torch.no_grad()
def test_other_images_have_other_proposals(teacher, images):
    outputs = output_function("logits", teacher)
    first = outputs.boxes(images).stages[0]
    assert outputs.boxes(images).stages[0] is first
    assert not torch.equal(outputs.boxes(torch.randn(2, 3, 64, 64)).stages[0][:5], first[:5])


SWIN = {"type": "SwinTransformer", "embed_dims": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
FCN = {"type": "FCNHead", "in_channels": 128, "in_index": 3, "channels": 8, "num_convs": 1, "num_classes": 3}
VIT = {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64}
SCORED = {
    "segmentor": (
        {
            "type": "mmseg.EncoderDecoder",
            "backbone": SWIN,
            "decode_head": FCN,
            "auxiliary_head": [{**FCN, "in_channels": 64, "in_index": 2}, {**FCN, "in_channels": 32, "in_index": 1}],
            "test_cfg": {"mode": "whole"},
        },
        (2, 3, 2, 2),
    ),
    "cascade": (
        {
            "type": "mmseg.CascadeEncoderDecoder",
            "num_stages": 2,
            "backbone": SWIN,
            "decode_head": [
                FCN,
                {
                    "type": "OCRHead",
                    "in_channels": 128,
                    "in_index": 3,
                    "channels": 8,
                    "ocr_channels": 8,
                    "num_classes": 3,
                    "norm_cfg": {"type": "BN"},
                },
            ],
            "test_cfg": {"mode": "whole"},
        },
        (2, 3, 2, 2),
    ),
    "classifier": (
        {
            "type": "mmpretrain.ImageClassifier",
            "backbone": {"type": "VisionTransformer", "arch": VIT, "img_size": 64},
            "head": {"type": "VisionTransformerClsHead", "num_classes": 3, "in_channels": 32, "hidden_dim": 8},
        },
        (2, 3),
    ),
}


@pytest.mark.parametrize(("config", "shape"), SCORED.values(), ids=SCORED.keys())
def test_logits_of_segmentors_and_classifiers_are_their_own_forward(config, shape, images):
    init_default_scope(config["type"].partition(".")[0])
    model = random_weights(MODELS.build(copy.deepcopy(config)))
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    images.requires_grad_()
    (logits,) = output_function("logits", model)(model, images)
    # the same computation: equal to the bit
    assert logits.shape == shape and torch.equal(logits, model(images, mode="tensor"))
    (gradient,) = torch.autograd.grad(logits.square().mean(), images)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        calibration_function("model", model)(model, images)
    assert not any(name.startswith("auxiliary_head") for name in seen)  # only training uses them
    unused = {name for name in seen ^ set(linear_layers(model)) if not name.endswith("attn.out_proj")}
    assert not {name for name in unused if not name.startswith("auxiliary_head")}


def linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def test_gradients_reach_student_and_images(teacher, other, images):
    images.requires_grad_()
    for place in ("backbone", "neck", "logits"):
        other.zero_grad()
        total = sum(level.square().mean() for level in output_function(place, teacher)(other, images))
        (gradient,) = torch.autograd.grad(total, images, retain_graph=True)
        assert gradient.abs().sum() > 0, place
        total.backward()
        assert other.backbone.patch_embed.projection.weight.grad.abs().sum() > 0, place


def test_calibration_reaches_every_head_of_the_scope(teacher, images):
    seen = set()
    for name, module in teacher.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    with torch.no_grad():
        calibration_function("backbone", teacher)(teacher, images)
        assert seen and all(name.startswith("backbone.") for name in seen)
        calibration_function("model", teacher)(teacher, images)
    everything = {name for name, module in teacher.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert seen == everything


def test_an_unknown_place_lists_the_known(teacher):
    with pytest.raises(UsageError, match="'head': use one of backbone, blocks, neck, logits"):
        output_function("head", teacher)


@pytest.mark.parametrize(("place", "said"), [("neck", "has no neck"), ("logits", "is no two-stage detector")])
def test_places_that_a_model_lacks(place, said):
    with pytest.raises(UsageError, match=f"Sequential {said}"):
        output_function(place, nn.Sequential())


SWIN = {"type": "mmdet.SwinTransformer", "embed_dims": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 1, 1, 1]}
VIT = {"type": "mmseg.VisionTransformer", "img_size": 64, "embed_dims": 16, "num_layers": 5, "num_heads": 2}
ARCH = {"embed_dims": 16, "num_layers": 8, "num_heads": 2, "feedforward_channels": 32}
ARCH_V2 = {"embed_dims": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 1, 1], "extra_norm_every_n_blocks": 0}
SWIN_V2 = {"type": "mmpretrain.SwinTransformerV2", "arch": ARCH_V2, "window_size": 2, "out_indices": (0, 1, 2, 3)}
# a backbone, and how many maps it gives
BLOCKS = {
    "swin": (SWIN, 4),
    "swin-v2": (SWIN_V2, 4),
    "mmseg-vit": (VIT, 1),
    "mmpretrain-vit": ({"type": "mmpretrain.VisionTransformer", "img_size": 64, "arch": ARCH}, 1),
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_every_blocks_output_is_compared_and_the_maps_follow(name, images):
    config, maps = BLOCKS[name]
    model = nn.Module()
    model.backbone = random_weights(MODELS.build(copy.deepcopy(config)))
    outputs = output_function("blocks", model)(model, images)
    blocks = transformer_blocks(model.backbone)
    assert not any(block._forward_hooks for block in blocks)
    expected: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _, args, output: expected.append(output))
    expected += output_function("backbone", model)(model, images)
    assert len(outputs) == len(expected) == len(blocks) + maps
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


@torch.no_grad()
def test_blocks_that_also_give_the_size_of_their_map_are_compared_on_their_tokens(images):
    model = nn.Module()
    model.backbone = CASES["mmpretrain-mvit"].build()
    outputs = output_function("blocks", model)(model, images)
    # four blocks, on maps of 16x16, 8x8, 4x4 and 4x4 tokens, and three maps
    assert [one.shape[1] for one in outputs[:4]] == [256, 64, 16, 16] and len(outputs) == 7


@torch.no_grad()
def test_a_quantized_model_has_the_same_blocks():
    image = torch.randn(1, 3, 64, 64)
    teacher = nn.Module()
    teacher.backbone = random_weights(MODELS.build(copy.deepcopy(BLOCKS["mmpretrain-vit"][0])))
    student = copy.deepcopy(teacher)
    quantize_in_place(student.backbone, {}, prefix="backbone")
    enable_quantizers(student, False)
    ours, theirs = (output_function("blocks", model)(model, image) for model in (student, teacher))
    for a, b in zip(ours, theirs, strict=True):
        # float32 sums in another order
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


# No adapter declares blocks of these: a backbone, and how many blocks and outputs are compared.
REPEATED = {
    "resnet": ({"type": "mmdet.ResNet", "depth": 18, "base_channels": 8}, 8, 4),
    "vgg": ({"type": "mmpretrain.VGG", "depth": 11}, 8, 1),
    "levit": (CASES["timm-levit"].backbone, 2, 1),
    "lowformer": (CASES["timm-lowformer"].backbone, 6, 1),
}


@pytest.mark.parametrize(("config", "blocks", "maps"), REPEATED.values(), ids=REPEATED)
@torch.no_grad()
def test_repeated_blocks_are_compared_where_none_are_declared(config, blocks, maps):
    init_default_scope("mmpretrain")
    teacher = nn.Module()
    teacher.backbone = random_weights(MODELS.build(copy.deepcopy(config)))
    assert not transformer_blocks(teacher)
    student = copy.deepcopy(teacher)
    quantize_in_place(student.backbone, {}, prefix="backbone")
    enable_quantizers(student, False)
    images = torch.randn(2, 3, 64, 64)
    function = output_function("blocks", teacher)
    ours, theirs = function(student, images), function(teacher, images)
    assert len(theirs) == blocks + maps
    for a, b in zip(ours, theirs, strict=True):
        # float32 sums in another order, relative to the largest element
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=0)


def test_a_model_without_any_block_is_compared_on_its_outputs():
    model = nn.Module()
    model.backbone = nn.Identity()
    images = torch.randn(1, 3, 4, 4)
    (found,) = output_function("blocks", model)(model, images)
    assert torch.equal(found, images)


@pytest.mark.parametrize(("kind", "level"), [("segmentor", "logits"), ("classifier", "backbone")])
@torch.no_grad()
def test_heads_with_hidden_layers_are_compared_by_default_if_they_are_quantized(kind, level, images):
    config = SCORED[kind][0]
    init_default_scope(config["type"].partition(".")[0])
    model = random_weights(MODELS.build(copy.deepcopy(config)))
    for scope, expected in (("model", level), ("backbone", "backbone")):
        found = output_function(None, model, scope)(model, images)
        same = output_function(expected, model)(model, images)
        assert len(found) == len(same) and all(torch.equal(a, b) for a, b in zip(found, same, strict=True))
