"""What an artifact config names, built through mmdet's own registry."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmdet.models.detectors import MaskRCNN
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from psaq_mm.engine.builder import build_student
from psaq_mm.errors import UsageError
from psaq_mm.models import QuantSwinTransformer, artifact_model, calibration_function, policy_of
from psaq_mm.quantization import (
    QuantizationError,
    QuantizedLayer,
    QuantPolicy,
    calibrating,
    coverage,
    quantizers,
    trainable_groups,
)
from tests.conftest import ROOT, random_weights
from tests.models.conftest import SWIN


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmdet")


@pytest.fixture
def detector(tiny_recipe) -> ConfigDict:
    return copy.deepcopy(tiny_recipe.model)


def build(model: ConfigDict, quantization: dict) -> torch.nn.Module:
    return random_weights(MMDET_MODELS.build(artifact_model(model, quantization)))


def samples(count: int, size: int = 64) -> list[DetDataSample]:
    meta = {"img_shape": (size, size), "ori_shape": (size, size), "scale_factor": (1.0, 1.0), "batch_input_shape": 64}
    return [DetDataSample(metainfo=meta) for _ in range(count)]


def test_the_backbone_builds_by_mmdets_registry():
    backbone = MMDET_MODELS.build({"type": "psaq_mm.QuantSwinTransformer", **SWIN, "quantization": {"weight_bits": 4}})
    assert type(backbone) is QuantSwinTransformer
    assert {q.spec.bits for name, q in quantizers(backbone) if "weight" in name} == {4}
    assert {q.spec.bits for name, q in quantizers(backbone) if "weight" not in name} == {8}
    with pytest.raises(QuantizationError, match="is uncalibrated: calibrate the model or load a calibrated checkpoint"):
        backbone(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_scope_model_is_the_hosts_class_and_predicts(detector, scheme):
    model = build(detector, {"scope": "model", "scheme": scheme})
    assert type(model) is MaskRCNN and hasattr(model, "backbone")
    teacher = random_weights(MMDET_MODELS.build(detector))
    names = [name for name, _ in quantizers(model)]
    for part in ("backbone.", "neck.", "rpn_head.", "roi_head.bbox_head.", "roi_head.mask_head."):
        assert any(name.startswith(part) for name in names), part
    images = torch.randn(2, 3, 64, 64)
    forward = calibration_function("model", teacher)
    with torch.no_grad(), calibrating(model):
        forward(model, images)
    with torch.no_grad():
        found = model.predict(images, samples(2))
    assert len(found) == 2 and all(len(one.pred_instances) > 0 for one in found)
    assert found[0].pred_instances.masks.shape[1:] == (64, 64)


def test_scope_model_quantizes_every_conv_and_linear(detector):
    model = build(detector, {"scope": "model"})
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.modules.conv._ConvNd))
        and not isinstance(module, QuantizedLayer)
    ]
    assert left == []
    rows = coverage(model, policy_of({"scope": "model"})[0]).rows
    assert {name for name, _ in model.named_parameters() if "quantizer" not in name} <= {row.name for row in rows}
    (upsample,) = (row for row in rows if row.name.endswith("upsample.weight"))
    assert upsample.bits == 8


def test_an_artifact_of_an_earlier_version_keeps_its_float_deconvolution(detector):
    artifact = artifact_model(detector, {"scope": "model"})
    del artifact.quantization["last_layers"]
    model = MMDET_MODELS.build(artifact)
    rows = {row.name: row for row in coverage(model, policy_of({"scope": "model"})[0]).rows}
    for tensor in ("weight", "input"):
        row = rows[f"roi_head.mask_head.upsample.{tensor}"]
        assert row.bits is None and row.reason == "transposed convolutions stay FP in artifacts of earlier versions"
    assert rows["roi_head.mask_head.conv_logits.weight"].bits == 8


LAST = ["rpn_head.rpn_cls", "rpn_head.rpn_reg", "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"]
LAST.append("roi_head.mask_head.conv_logits")


@pytest.mark.parametrize("precision", [None, 6, "float"])
def test_last_layers_have_a_precision_of_their_own(detector, precision):
    quantization = {"scope": "model", "weight_bits": 4, "activation_bits": 8, "last_layers": precision}
    artifact = artifact_model(detector, quantization)
    rows = {row.name: row for row in coverage(MMDET_MODELS.build(artifact), policy_of(quantization)[0]).rows}
    expected = {None: (4, 8), 6: (6, 6), "float": (None, None)}[precision]
    for name in LAST:
        found = [rows[f"{name}.{tensor}"] for tensor in ("weight", "input")]
        assert tuple(row.bits for row in found) == expected, name
        if precision == "float":
            assert {row.reason for row in found} == {"kept FP by last_layers='float'"}
    others = {row.bits for row in rows.values() if row.kind == "weight" and row.name.rpartition(".")[0] not in LAST}
    assert others == {4}


def test_overrides_win_over_last_layers(detector):
    overrides = [{"pattern": "rpn_head", "keep_fp": False, "bits": 5}]
    model = MMDET_MODELS.build(
        artifact_model(detector, {"scope": "model", "last_layers": "float", "overrides": overrides})
    )
    assert {q.spec.bits for name, q in quantizers(model) if name.startswith("rpn_head")} == {5}
    assert not any(name.startswith("roi_head.bbox_head.fc_cls") for name, _ in quantizers(model))


def test_last_layers_are_for_the_whole_model(detector):
    model = MMDET_MODELS.build(artifact_model(detector, {"last_layers": 4}))
    assert {q.spec.bits for _, q in quantizers(model)} == {8}


@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_overrides_name_modules_of_the_whole_detector(detector, scope):
    overrides = [
        {"pattern": "backbone.patch_embed", "bits": 6},
        {"pattern": "backbone.stages.*.attn.w_msa.av", "activation_bits": 7},
        {"pattern": "backbone.stages.3", "keep_fp": True},
    ]
    model = build(detector, {"scope": scope, "overrides": overrides})
    bits = {name: quantizer.spec.bits for name, quantizer in quantizers(model)}
    assert {bits[name] for name in bits if name.startswith("backbone.patch_embed")} == {6}
    assert {bits[name] for name in bits if ".w_msa.av." in name} == {7}
    assert not any(name.startswith("backbone.stages.3") for name in bits)
    others = [name for name in bits if "patch_embed" not in name and ".av." not in name]
    assert others and {bits[name] for name in others} == {8}


@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_a_pattern_that_matches_nothing_names_its_neighbours(detector, scope):
    quantization = {"scope": scope, "overrides": [{"pattern": "backbone.stages.9.*", "bits": 4}]}
    with pytest.raises(QuantizationError, match=r"'backbone.stages.9.\*' matches no module; near names: backbone"):
        build(detector, quantization)


def test_a_backbone_gets_no_init_cfg_that_its_config_has_not(detector):
    # a module of the user's need not take it
    detector.backbone.pop("init_cfg", None)
    assert "init_cfg" not in artifact_model(detector, {"scope": "model"}).backbone


def test_the_artifact_is_a_copy_without_download(detector):
    detector.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "https://example.org/swin.pth"}
    before = copy.deepcopy(detector)
    backbone = artifact_model(detector, {"weight_bits": 4})
    assert backbone.type == "MaskRCNN" and backbone.backbone.type == "psaq_mm.QuantSwinTransformer"
    whole = artifact_model(detector, {"scope": "model"})
    assert (whole.type, whole.host) == ("psaq_mm.QuantizedModel", "MaskRCNN")
    assert backbone.backbone.init_cfg is None and whole.backbone.init_cfg is None
    assert detector == before
    # The exact policy stands in it, defaults too: they may change in a later version.
    assert QuantPolicy.from_config(backbone.backbone.quantization) == QuantPolicy(weight_bits=4)


def test_a_scoped_type_is_understood(detector):
    detector.backbone.type = "mmdet.SwinTransformer"
    assert artifact_model(detector, {}).backbone.type == "psaq_mm.QuantSwinTransformer"


def test_an_unknown_backbone_is_named(detector):
    detector.backbone = ConfigDict(type="ResNest", depth=18)
    with pytest.raises(UsageError, match="no backbone is called ResNest: correct its name, or add the module"):
        artifact_model(detector, {})


@pytest.mark.parametrize(
    ("quantization", "error", "said"),
    [
        ({"scope": "neck"}, UsageError, "'neck' is unknown: use one of backbone, model"),
        ({"weight_bits": 1}, QuantizationError, "from 2 to 8"),
        ({"activation_bits": 9}, QuantizationError, "from 2 to 8"),
        ({"bits": 4}, QuantizationError, "unknown keys"),
        ({"scheme": "fast"}, QuantizationError, "'fast' is unknown"),
        (
            {"last_layers": "fp"},
            QuantizationError,
            "last_layers='fp' is not valid: use None, 'float' or bits from 2 to 8",
        ),
        ({"last_layers": 16}, QuantizationError, "last_layers=16 is not valid"),
        ({"last_layers": True}, QuantizationError, "last_layers=True is not valid"),
    ],
    ids=["scope", "1-bit", "9-bits", "unknown-key", "scheme", "last-word", "last-bits", "last-bool"],
)
def test_settings_that_cannot_be(quantization, error, said):
    with pytest.raises(error, match=said):
        policy_of(quantization)


SWIN_S = ROOT / "configs" / "mask_rcnn_swin_s_w8a8.py"


@pytest.mark.parametrize("scheme", ["deploy", "paper"])
def test_the_official_swin_s_is_quantized_and_counted(scheme):
    cfg = Config.fromfile(SWIN_S)
    cfg.model.backbone.init_cfg = None
    model = MMDET_MODELS.build(artifact_model(cfg.model, {**cfg.dfq.quantization, "scheme": scheme}))
    assert type(model) is MaskRCNN and type(model.backbone) is QuantSwinTransformer
    blocks = sum(model.backbone.stages[i].blocks.__len__() for i in range(4))
    assert blocks == 24
    report = coverage(model.backbone, policy_of({"scheme": scheme})[0], prefix="backbone")
    # In each block the weights and inputs of qkv, proj and two FFN layers; in deploy both operands of both products,
    # in psaq the outputs of qkv, q k^T and proj, and the bias table.
    of_block = 4 + 4 + 4
    # The patch embedding's weight and input, in psaq its output too; weight and input of three patch mergings.
    around = (2 if scheme == "deploy" else 3) + 3 * 2
    assert report.quantized == 24 * of_block + around
    # In each block four biases, two norms of two, the softmax and the residual sums; in deploy the bias table and the
    # maximum of each softmax row, in psaq the four operands of the products (attention FP, the others quantized as
    # qkv's output).
    of_block = 4 + 4 + 1 + 1 + (2 if scheme == "deploy" else 4)
    # The patch embedding's bias; norms of two: behind it, in three mergings (which have no bias) and on four outputs.
    around = 1 + 2 + 3 * 2 + 4 * 2
    assert report.fp == 24 * of_block + around


def test_the_official_swin_s_calibrates_and_runs():
    cfg = Config.fromfile(SWIN_S)
    cfg.model.backbone.init_cfg = None
    # the recipe's own weight ranges (mse) are a search, which takes seconds on 49 million weights
    model = build(cfg.model, {**cfg.dfq.quantization, "weight_observer": "minmax"})
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad(), calibrating(model):
        model.backbone(images)
    with torch.no_grad():
        maps = model.backbone(images)
    assert [tuple(level.shape[1:]) for level in maps] == [(96, 32, 40), (192, 16, 20), (384, 8, 10), (768, 4, 5)]


@pytest.mark.parametrize("scope", ["backbone", "model"])
def test_a_whole_quantized_detector_can_be_pickled(detector, scope):
    model = build(detector, {"scope": scope})
    again = pickle.loads(pickle.dumps(model))
    ours, theirs = model.state_dict(), again.state_dict()
    assert type(again) is type(model) and ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if not key.endswith("sqnr_db"))


def test_stages_that_the_config_freezes_are_trained(detector):
    """frozen_stages spared the float model's training some work; rounding errs in those stages too."""
    plain, frozen = copy.deepcopy(detector), copy.deepcopy(detector)
    frozen.backbone.frozen_stages = 1
    trained = []
    for config in (plain, frozen):
        student = build_student(artifact_model(config, {}), random_weights(MMDET_MODELS.build(config)))
        with calibrating(student), torch.no_grad():
            calibration_function("backbone", student)(student, torch.randn(2, 3, 64, 64))
        trained.append({kind: len(parameters) for kind, parameters in trainable_groups(student).items()})
    assert trained[0] == trained[1] and all(trained[0].values())
