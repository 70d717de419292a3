"""Registered quantized backbones of every library, built as an artifact config of that library would."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import UsageError
from psaq_mm.models import (
    AttentionTaps,
    DecomposedAttention,
    artifact_model,
    backbone_of,
    check_image_size,
    output_function,
    quantize_in_place,
    quantized_class,
    without_downloads,
)
from psaq_mm.quantization import QuantConv2d, QuantLinear, QuantPolicy, calibrating, coverage, quantizers
from tests.conftest import ROOT, random_weights
from tests.quantization.switching import enable_quantizers

SIZE = 64
STAGES = {"depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
SWIN = {"embed_dims": 16, **STAGES}
LAYERS = {"embed_dims": 32, "num_layers": 2, "num_heads": 2}
ARCH = {**LAYERS, "feedforward_channels": 64}
TIMM_VIT = {"model_name": "vit_tiny_patch16_224", "img_size": SIZE, "embed_dim": 32, "depth": 3, "num_heads": 2}
TIMM_SWIN = {
    "model_name": "swin_tiny_patch4_window7_224",
    "img_size": SIZE,
    "embed_dim": 16,
    "window_size": 4,
    **STAGES,
}
SWIN_V2 = {**SWIN, "extra_norm_every_n_blocks": 2}
TIMM_SWIN_V2 = {**TIMM_SWIN, "model_name": "swinv2_tiny_window8_256"}
# name: scope, backbone, tokens before the patches (None for windows)
BACKBONES: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "mmdet-swin": (
        "mmdet",
        {"type": "SwinTransformer", **SWIN, "use_abs_pos_embed": True, "pretrain_img_size": 64},
        None,
    ),
    "mmseg-swin": ("mmseg", {"type": "SwinTransformer", **SWIN}, None),
    "mmseg-vit": ("mmseg", {"type": "VisionTransformer", "img_size": (SIZE, SIZE), **LAYERS}, 1),
    "mmseg-vit-no-token": (
        "mmseg",
        {"type": "VisionTransformer", "img_size": (SIZE, SIZE), **LAYERS, "with_cls_token": False},
        0,
    ),
    "mmseg-timm": ("mmseg", {"type": "TIMMBackbone", **TIMM_SWIN, "pretrained": False}, None),
    "mmpretrain-swin": (
        "mmpretrain",
        {
            "type": "SwinTransformer",
            "arch": SWIN,
            "img_size": SIZE,
            "pad_small_map": True,
            "out_indices": (0, 1, 2, 3),
            "use_abs_pos_embed": True,
        },
        None,
    ),
    "mmpretrain-swin-v2": (
        "mmpretrain",
        {
            "type": "SwinTransformerV2",
            "arch": SWIN_V2,
            "img_size": SIZE,
            "window_size": 4,
            "pad_small_map": True,
            "out_indices": (0, 1, 2, 3),
        },
        None,
    ),
    "mmseg-timm-swin-v2": ("mmseg", {"type": "TIMMBackbone", **TIMM_SWIN_V2, "pretrained": False}, None),
    "mmpretrain-vit": (
        "mmpretrain",
        {"type": "VisionTransformer", "arch": ARCH, "img_size": SIZE, "layer_scale_init_value": 0.1},
        1,
    ),
    "mmpretrain-vit-no-token": (
        "mmpretrain",
        {"type": "VisionTransformer", "arch": ARCH, "img_size": SIZE, "with_cls_token": False, "out_type": "featmap"},
        0,
    ),
    "mmpretrain-deit": ("mmpretrain", {"type": "DistilledVisionTransformer", "arch": ARCH, "img_size": SIZE}, 2),
    "mmpretrain-timm": ("mmpretrain", {"type": "TIMMBackbone", **TIMM_VIT}, 1),
    "mmpretrain-timm-maps": ("mmpretrain", {"type": "TIMMBackbone", **TIMM_VIT, "features_only": True}, 1),
    "mmpretrain-timm-registers": ("mmpretrain", {"type": "TIMMBackbone", **TIMM_VIT, "reg_tokens": 3}, 4),
    "mmseg-of-mmpretrain": (
        "mmseg",
        {"type": "mmpretrain.VisionTransformer", "arch": ARCH, "img_size": SIZE, "out_type": "featmap"},
        1,
    ),
}
EVERY = pytest.mark.parametrize(("scope", "backbone", "prefix"), BACKBONES.values(), ids=BACKBONES.keys())
SCHEMES = pytest.mark.parametrize("scheme", ["deploy", "paper"])


class Wrapper(nn.Module):
    """A model with a backbone, as far as outputs are concerned."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def outputs(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    return output_function("backbone", backbone)(Wrapper(backbone), images)


def built(scope: str, config: dict) -> nn.Module:
    init_default_scope(scope)
    return random_weights(MODELS.build(copy.deepcopy(config)))


def student_config(scope: str, backbone: dict, quantization: dict) -> dict:
    init_default_scope(scope)
    model = ConfigDict(type="Anything", backbone=copy.deepcopy(backbone))
    return artifact_model(model, quantization).backbone


@EVERY
@SCHEMES
def test_backbones_build_load_calibrate_and_run(scope, backbone, prefix, scheme):
    teacher = built(scope, backbone)
    config = student_config(scope, backbone, {"scheme": scheme})
    student = MODELS.build(copy.deepcopy(config))
    student.eval()  # not returned, as in random_weights
    assert isinstance(student, type(teacher)) and type(student).__name__ == f"Quant{type(teacher).__name__}"
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in key for key in missing)
    images = torch.randn(2, 3, SIZE, SIZE)
    enable_quantizers(student, False)
    with torch.no_grad():
        theirs = outputs(teacher, images)
        # float32, other orders of the same sums, through all blocks
        for ours, level in zip(outputs(student, images), theirs, strict=True):
            torch.testing.assert_close(ours, level, atol=1e-4, rtol=1e-4)
        enable_quantizers(student, True)
        with calibrating(student):
            student(images)
        found = outputs(student, images)
    # blocks at 8 bits in a row: an error of at most 10 %
    assert all(0 < (a - b).norm() < 0.1 * b.norm() for a, b in zip(found, theirs, strict=True))
    again = MODELS.build(copy.deepcopy(config))
    again.load_state_dict(student.state_dict())
    again.eval()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outputs(again, images), found, strict=True))


@EVERY
@SCHEMES
def test_coverage_lists_every_layer_and_why_the_rest_stays_float(scope, backbone, prefix, scheme):
    teacher = built(scope, backbone)
    student = MODELS.build(student_config(scope, backbone, {"scheme": scheme}))
    rows = {row.name: row for row in coverage(student, QuantPolicy(scheme=scheme), "backbone").rows}
    for name, module in student.named_modules():
        # SwinV2's position bias is a constant, computed in FP
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "cpb_mlp" not in name:
            assert isinstance(module, (QuantLinear, QuantConv2d)), name
            assert rows[f"backbone.{name}.weight"].bits == rows[f"backbone.{name}.input"].bits == 8
    # torch packs q, k and v in a parameter that is a layer here
    names = {name.replace("in_proj_", "in_proj.") for name, _ in teacher.named_parameters()}
    assert {f"backbone.{name}" for name in names} <= rows.keys()
    assert sum(row.bits is not None for row in rows.values()) == len(list(quantizers(student)))
    reasons = {row.reason for row in rows.values() if row.bits is None}
    unexplained = ("", "no quantizer was asked for", "not converted: outside the quantized part")
    assert not any(reason in unexplained or "register" in reason for reason in reasons)
    blocks = sum(isinstance(module, DecomposedAttention) for module in student.modules())
    sums = [row for name, row in rows.items() if name.endswith("residual_sums")]
    assert len(sums) == blocks and all(("inline" in row.reason) == (scheme == "paper") for row in sums)
    embedded = [name for name in names if name.endswith(("pos_embed", "_token"))]
    assert all(rows[f"backbone.{name}"].reason == "embeddings stay FP" for name in embedded)
    assert any(name.endswith("embedding_sum") for name in rows) == bool(embedded)


@EVERY
def test_taps_leave_out_what_is_no_patch(scope, backbone, prefix):
    model = built(scope, backbone)
    images = torch.randn(1, 3, SIZE, SIZE, requires_grad=True)
    check_image_size(model, (SIZE, SIZE))
    with torch.no_grad():
        before = outputs(model, images)
    with AttentionTaps(model) as taps:
        during = outputs(model, images)
        layers = taps.take()
    # torch's attention is computed in another order while tapped
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(before, during, strict=True))
    attentions = sum(isinstance(m, DecomposedAttention) for m in quantize_in_place(model, {}, "backbone").modules())
    assert len(layers) == attentions
    for layer in layers:
        assert layer.has_class_token == bool(prefix)
        if prefix is not None:
            assert layer.patches().tokens.shape[1:3] == (1, (SIZE // 16) ** 2)
    sum(layer.patches().tokens.square().sum() for layer in layers).backward()
    assert images.grad.abs().sum() > 0


def test_layers_that_stand_before_the_patches_are_the_first():
    model = built(*BACKBONES["mmpretrain-deit"][:2])
    seen = []
    model.layers[0].attn.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad(), AttentionTaps(model) as taps:
        model(torch.randn(1, 3, SIZE, SIZE))
        layer = taps.take()[0]
    assert torch.equal(layer.patches().tokens[0, 0], seen[0][0, 2:].unflatten(1, (2, 16)).mean(1))


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_a_timm_classifier_keeps_its_head_float(scheme):
    init_default_scope("mmpretrain")
    config = ConfigDict(type="TimmClassifier", **TIMM_VIT, num_classes=5, pretrained=True)
    artifact = artifact_model(config, {"scheme": scheme, "overrides": [{"pattern": "model.blocks.1", "bits": 6}]})
    assert artifact.type == "psaq_mm.QuantizedTimmClassifier" and artifact.pretrained is False
    student = MODELS.build(artifact)
    teacher = random_weights(MODELS.build(without_downloads(config)))
    assert type(student) is type(teacher)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in key for key in missing)
    student.eval()
    assert backbone_of(student) == ("model", student.model) and type(student.model.head) is nn.Linear
    bits = {name: quantizer.spec.bits for name, quantizer in quantizers(student)}
    assert all((bits[name] == 6) == name.startswith("model.blocks.1.") for name in bits)
    forward = output_function("backbone", teacher)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad(), calibrating(student):
        forward(student, images)
    with torch.no_grad():
        assert student.predict(images)[0].pred_score.shape == (5,)
    assert [tuple(one.shape) for one in forward(teacher, images)] == [(2, 17, 32), (2, 32)]


def test_an_override_quantizes_the_head_of_a_timm_classifier():
    init_default_scope("mmpretrain")
    config = ConfigDict(type="TimmClassifier", **TIMM_VIT, num_classes=5)
    student = MODELS.build(artifact_model(config, {"overrides": [{"pattern": "model.head", "keep_fp": False}]}))
    assert isinstance(student.model.head, QuantLinear)


def test_the_names_of_artifacts_are_those_of_two_types():
    init_default_scope("mmpretrain")
    timm = {**TIMM_VIT, "num_classes": 5, "pretrained": False}
    for named, general in (
        (
            {"type": "psaq_mm.QuantizedTimmClassifier", **timm, "quantization": {}},
            {
                "type": "psaq_mm.QuantizedModel",
                "host": "mmpretrain.TimmClassifier",
                **timm,
                "quantization": {"scope": "backbone"},
            },
        ),
        (
            {"type": "psaq_mm.QuantSwinTransformer", **SWIN, "quantization": {}},
            {"type": "psaq_mm.QuantizedBackbone", "host": "mmdet.SwinTransformer", **SWIN, "quantization": {}},
        ),
    ):
        ours, theirs = MODELS.build(named), MODELS.build(general)
        assert type(ours) is type(theirs) and ours.state_dict().keys() == theirs.state_dict().keys()


def test_scope_model_quantizes_a_classifiers_head():
    init_default_scope("mmpretrain")
    config = ConfigDict(
        type="ImageClassifier",
        backbone=BACKBONES["mmpretrain-vit"][1],
        head={"type": "VisionTransformerClsHead", "num_classes": 5, "in_channels": 32},
    )
    student = MODELS.build(artifact_model(config, {"scope": "model"}))
    assert type(student).__name__ == "ImageClassifier"
    assert all(isinstance(m, QuantLinear) for m in student.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize(
    ("scope", "name", "model"),
    [
        (
            "mmseg",
            "mmseg-swin",
            {
                "type": "EncoderDecoder",
                "test_cfg": {"mode": "whole"},
                "decode_head": {
                    "type": "FCNHead",
                    "in_channels": 128,
                    "channels": 8,
                    "num_classes": 3,
                    "in_index": 3,
                    "norm_cfg": {"type": "BN"},
                },
            },
        ),
        (
            "mmpretrain",
            "mmpretrain-deit",
            {"type": "ImageClassifier", "head": {"type": "DeiTClsHead", "num_classes": 5, "in_channels": 32}},
        ),
    ],
    ids=["mmseg", "mmpretrain"],
)
def test_whole_models_build_by_their_own_registry_and_predict(scope, name, model):
    init_default_scope(scope)
    registry = importlib.import_module(f"{scope}.registry").MODELS
    artifact = artifact_model(ConfigDict(**model, backbone=BACKBONES[name][1]), {"weight_bits": 4})
    student = random_weights(registry.build(artifact))
    assert type(student).__name__ == model["type"] and isinstance(student.backbone, nn.Module)
    assert {q.spec.bits for key, q in quantizers(student) if "weight" in key} == {4}
    assert all(key.startswith("backbone.") for key, _ in quantizers(student))
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad(), calibrating(student):
        output_function("backbone", student)(student, images)
    with torch.no_grad():
        assert len(student.predict(images)) == 2


def test_artifacts_name_the_host_and_download_nothing():
    init_default_scope("mmseg")
    backbone = {"type": "TIMMBackbone", **TIMM_SWIN, "pretrained": True, "checkpoint_path": "swin.pth"}
    model = ConfigDict(type="EncoderDecoder", pretrained="https://example.org/vit.pth", backbone=backbone)
    artifact = artifact_model(model, {})
    assert (artifact.backbone.type, artifact.backbone.host) == ("psaq_mm.QuantizedBackbone", "mmseg.TIMMBackbone")
    assert artifact.pretrained is None and artifact.backbone.pretrained is False
    assert "checkpoint_path" not in artifact.backbone


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"type": "X", "backbone": {"type": "Nothing"}}, "no backbone is called Nothing: correct its name, or add"),
        ({"type": "X", "backbone": {"type": "AvgPool"}}, "no backbone is called AvgPool"),
        ({"type": "mmpretrain.BLIPCaption"}, "has no backbone to quantize"),
    ],
    ids=["unknown", "other-kind", "none"],
)
def test_what_cannot_be_quantized_is_named(model, said):
    init_default_scope("mmpretrain")
    with pytest.raises(UsageError, match=said):
        artifact_model(ConfigDict(model), {})


def test_a_quantized_class_is_made_once():
    teacher = built(*BACKBONES["mmseg-swin"][:2])
    assert quantized_class(type(teacher)) is quantized_class(type(teacher))


@pytest.mark.parametrize("name", ["mmpretrain-timm", "mmseg-timm"])
def test_timm_models_take_the_size_that_they_were_built_for(name):
    model = built(*BACKBONES[name][:2])
    with pytest.raises(UsageError, match="images of 96x96 do not fit TIMMBackbone: it was built for 64x64"):
        check_image_size(model, (96, 96))


def test_windows_that_may_not_be_padded_need_a_large_image():
    model = built("mmpretrain", {"type": "SwinTransformer", "arch": SWIN, "img_size": SIZE})
    check_image_size(model, (224, 256))
    v2 = built("mmpretrain", {"type": "SwinTransformerV2", "arch": SWIN_V2, "img_size": SIZE})
    check_image_size(v2, (256, 256))
    with pytest.raises(UsageError, match="smaller than a window, give 256x256 or more"):
        check_image_size(v2, (224, 256))
    with pytest.raises(UsageError, match="smaller than a window, give 224x224 or more, or set pad_small_map"):
        check_image_size(model, (192, 256))


WITHOUT_HOSTS = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def blocked(name, *args):
    return None if name.partition(".")[0] in {hosts} else find(name, *args)
importlib.machinery.PathFinder.find_spec = blocked
import psaq_mm.models
from torch import nn
model = psaq_mm.models.quantize_in_place(nn.Sequential(nn.Linear(2, 2)), {{}})
print(type(model[0]).__name__, sorted({{"mmdet", "mmseg", "mmpretrain", "timm"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("hosts", "imported"),
    [(("mmdet", "mmseg", "mmpretrain", "timm"), "[]"), (("mmseg", "mmpretrain", "timm"), "[]")],
    ids=["no-host", "mmdet-alone"],
)
def test_the_package_needs_only_the_libraries_that_a_model_brings(hosts, imported):
    code = WITHOUT_HOSTS.format(hosts=hosts)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split("\n")[-2:] == [f"QuantLinear {imported}", ""], done.stderr


@EVERY
def test_quantized_backbones_can_be_pickled_and_copied(scope, backbone, prefix):
    student = MODELS.build(student_config(scope, backbone, {}))
    random_weights(student)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        with calibrating(student):
            outputs(student, images)
        expected = outputs(student, images)
        for again in (pickle.loads(pickle.dumps(student)), copy.deepcopy(student)):
            assert type(again) is type(student)
            assert all(torch.equal(a, b) for a, b in zip(outputs(again, images), expected, strict=True))
