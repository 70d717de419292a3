"""Whole models as exported parts: what each kind is cut into, and that the parts compute what the simulation does."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.deployment.artifact import Artifact
from psaq_mm.deployment.deployed_config import ExportedPart
from psaq_mm.deployment.deployed_config import model_config as deployed_model_config
from psaq_mm.deployment.export import FORMATS, RUNS_ON, export
from psaq_mm.deployment.parts import flatten, nest, static_parts
from psaq_mm.errors import UsageError
from psaq_mm.models import artifact_model
from psaq_mm.models.checkpoint import load_weights
from psaq_mm.quantization import calibrating, sqnr
from tests.conftest import random_weights
from tests.cpu import needs_exact_sums_of_random_weights
from tests.zoo import KINDS, SCOPES, build, model_config

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra [deploy] is not installed")
SIZE = 64, 64
# Each file against the simulation: activations that lie between two integers may be rounded to either, which moves the
# outputs of these narrow random networks by up to a twentieth. A wrong scale or order of channels gives below 10 dB.
SQNR = 20.0
PARTS = {
    "mask_rcnn": ["images", "bbox_head", "mask_head"],
    "cascade": ["images", "bbox_head.0", "bbox_head.1", "mask_head.0", "mask_head.1"],
}


def part_inputs(model: Any) -> dict[str, torch.Tensor]:
    """An input for each part."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        part.name: (2, 3, *SIZE) if part.input_shape is None else (5, *part.input_shape) for part in static_parts(model)
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@torch.no_grad()
def calibrated_artifact(kind: str, folder: Path, scope: str = "model") -> Artifact:
    """An artifact of a kind, written and read as by the tools."""
    config = model_config(kind)
    quantized = artifact_model(config, {"scope": scope})
    model: Any = random_weights(MODELS.build(copy.deepcopy(quantized)))
    inputs = part_inputs(model)
    with calibrating(model):
        for part in static_parts(model):
            part.graph(inputs[part.name])
        if getattr(model, "auxiliary_head", None) is not None:
            model.auxiliary_head(model.backbone(inputs["images"]))
    folder.mkdir(parents=True, exist_ok=True)
    Config({"model": quantized, "default_scope": SCOPES[kind]}).dump(folder / "quantized.py")
    torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / "quantized.pth")
    return Artifact(Config.fromfile(folder / "quantized.py"), folder / "quantized.pth")


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory):
    """The artifact of a kind; it keeps its ONNX graphs, which take most of the time."""
    return functools.cache(lambda kind: calibrated_artifact(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=list(KINDS))
def artifact(request, artifact_of) -> Artifact:
    return artifact_of(request.param)


def deployed(artifact: Artifact, folder: Path, engine: str, sizes: list[tuple[int, int]]) -> tuple[Any, list[Path]]:
    """The deployed model, built from what was written."""
    kind = next(kind for kind, runs_on in RUNS_ON.items() if runs_on == engine)
    written = export(artifact, folder / f"model{FORMATS[kind]}", kind, sizes, part="model")
    config, checkpoint = written[-2:]
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_weights(model, torch.load(checkpoint, weights_only=True)["state_dict"], str(checkpoint))
    model.eval()
    return model, written


def own_head(model: Any, name: str) -> nn.Module:
    """The deployed module that gives a part's results."""
    return model.backbone if name == "images" else model.roi_head.get_submodule(name)


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_exact_sums_of_random_weights)])
@torch.no_grad()
def test_each_part_computes_what_the_simulation_computes(artifact, tmp_path, engine):
    model, _ = deployed(artifact, tmp_path, engine, [SIZE])
    assert not any(True for _ in model.parameters())
    for part in static_parts(artifact.model):
        x = part_inputs(artifact.model)[part.name]
        expected = part.graph(x)
        found = list(flatten("head", own_head(model, part.name)(x)).values())
        assert [one.shape for one in found] == [one.shape for one in expected], part.name
        for one, other in zip(expected, found, strict=True):
            assert sqnr(one, other) > SQNR, part.name


@torch.no_grad()
def test_the_hosts_own_code_predicts_with_the_parts(artifact, tmp_path):
    """Figures of trained models are in results/deploy_parity.json: those of random weights hang on ties."""
    model, _ = deployed(artifact, tmp_path, "onnxruntime", [SIZE])
    if "mmpretrain" in type(model).__module__:
        found = model.predict(part_inputs(artifact.model)["images"])
        assert [one.pred_score.shape for one in found] == [(5,), (5,)]
        return
    meta = {
        "img_shape": SIZE,
        "ori_shape": SIZE,
        "pad_shape": SIZE,
        "scale_factor": (1.0, 1.0),
        "batch_input_shape": SIZE,
    }
    image = part_inputs(artifact.model)["images"][:1]
    if "mmseg" in type(model).__module__:
        logits, expected = model.encode_decode(image, [meta]), artifact.model.encode_decode(image, [meta])
        assert sqnr(expected, logits) > SQNR
        return
    from mmdet.structures import DetDataSample

    (found,) = model.predict(image, [DetDataSample(metainfo=meta)])
    boxes = found.pred_instances
    assert len(boxes) and boxes.bboxes.shape[1] == 4 and bool(boxes.scores.isfinite().all())
    assert "masks" not in boxes or boxes.masks.shape == (len(boxes), *SIZE)


@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_two_stage_detectors(kind):
    model = build(model_config(kind))
    assert [part.name for part in static_parts(model)] == PARTS[kind]


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade"])
def test_no_rois_give_empty_results(kind, artifact_of, tmp_path):
    """An image without proposals or detections."""
    model, _ = deployed(artifact_of(kind), tmp_path, "onnxruntime", [SIZE])
    for name in PARTS[kind][1:]:
        part = next(one for one in static_parts(build(model_config(kind))) if one.name == name)
        found = flatten("head", own_head(model, name)(torch.zeros(0, *part.input_shape)))
        assert [len(one) for one in found.values()] == [0] * len(found)


@torch.no_grad()
def test_several_sizes_in_one_deployment(artifact_of, tmp_path):
    model, written = deployed(artifact_of("mask_rcnn"), tmp_path, "openvino", [SIZE, (64, 128)])
    names = {path.name for path in written}
    assert {"model.64x64.xml", "model.64x128.xml", "model.bbox_head.xml", "model.mask_head.xml"} <= names
    for width in (64, 100):
        *features, head = model.backbone(torch.zeros(1, 3, 64, width))
        assert len(features) == 5 and features[0].shape[-1] == width // 4
        assert [len(one) for one in head] == [5, 5]
    # The RoI heads get the features that they would get of maps without padding behind them.
    features = model.backbone(torch.randn(1, 3, 64, 100, generator=torch.Generator().manual_seed(0)))
    rois = torch.tensor([[0, 5.0, 7.0, 60.0, 50.0], [0, 40.0, 0.0, 99.0, 63.0]])
    extract = model.roi_head.bbox_roi_extractor
    copies = [one.clone(memory_format=torch.contiguous_format) for one in features[: extract.num_inputs]]
    assert torch.equal(extract(features[: extract.num_inputs], rois), extract(copies, rois))


def test_float_heads_are_exported_too(tmp_path):
    """In scope backbone, heads are float, in the simulation and in the file."""
    artifact = calibrated_artifact("mask_rcnn", tmp_path / "run", scope="backbone")
    model, _ = deployed(artifact, tmp_path, "onnxruntime", [SIZE])
    x = part_inputs(artifact.model)["mask_head"]
    with torch.no_grad():
        # The same float products in another order.
        torch.testing.assert_close(
            model.roi_head.mask_head(x), artifact.model.roi_head.mask_head(x), atol=1e-4, rtol=1e-4
        )


def test_the_files_are_converted_before_one_is_written(artifact_of, tmp_path, monkeypatch):
    artifact = artifact_of("mask_rcnn")
    convert = artifact.onnx

    def failing(part, *args):
        if part.name == "mask_head":
            raise UsageError("no")
        return convert(part, *args)

    monkeypatch.setattr(artifact, "onnx", failing)
    with pytest.raises(UsageError, match="no"):
        export(artifact, tmp_path / "model.onnx", "onnx", [SIZE], part="model")
    assert not list(tmp_path.iterdir())


def semantic_head(model: Any) -> None:
    model.semantic_head = nn.Conv2d(16, 3, 1)


def point_head(model: Any) -> None:
    model.decode_head[1].__class__ = type("PointHead", (type(model.decode_head[1]),), {"predict": point_predict})


def point_predict(*args: Any) -> None:
    """As that of PointRend, which refines single points."""


def none_as_output(model: Any) -> None:
    model.bbox_head.forward = lambda x: (x, None)


def other_roi_head(model: Any) -> None:
    model.roi_head.mask_iou_head = nn.Identity()


def head_of_two_inputs(model: Any) -> None:
    model.bbox_head.forward = lambda x, samples: x


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        pytest.param("mask_rcnn", other_roi_head, "roi_head StandardRoIHead with mask_iou_head cannot", id="mask-iou"),
        pytest.param("mask_rcnn", semantic_head, "semantic_head .Conv2d. does not compute", id="panoptic"),
        pytest.param("cascade_segmentor", point_head, "decode_head.1 .PointHead. does not compute", id="point-rend"),
        pytest.param("gfl", head_of_two_inputs, "bbox_head .GFLHead. does not compute", id="two-inputs"),
    ],
)
def test_heads_that_cannot_be_exported_are_named(kind, change, message):
    model = build(model_config(kind))
    change(model)
    with pytest.raises(UsageError, match=f"{message}.*use --part backbone or backbone.neck"):
        static_parts(model)


def test_nested_outputs_and_their_names():
    value = [[1, 2], [3]]
    tensors = [[torch.tensor(one) for one in part] for part in value]
    flat = flatten("head", tensors)
    assert list(flat) == ["head.0.0", "head.0.1", "head.1.0"]
    assert nest("head", flat) == tensors and nest("features", flat) == []
    eleven = flatten("head", [torch.tensor(one) for one in range(11)])
    assert [int(one) for one in nest("head", eleven)] == list(range(11))
    single = torch.zeros(1)
    assert nest("head", flatten("head", single)) is single


def test_outputs_that_are_no_tensors_are_named():
    model = build(model_config("gfl"))
    none_as_output(model)
    (part,) = static_parts(model)
    with pytest.raises(UsageError, match="head.1 is a NoneType, not a tensor"):
        part.graph(torch.zeros(1, 3, *SIZE))


@torch.no_grad()
def test_a_timm_classifier_with_a_float_head_is_deployed(tmp_path):
    artifact = calibrated_artifact("timm_classifier", tmp_path / "run", scope="backbone")
    model, _ = deployed(artifact, tmp_path, "onnxruntime", [SIZE])
    images = part_inputs(artifact.model)["images"]
    assert sqnr(artifact.model(images), model(images)) > SQNR


def test_names_and_scopes_in_the_deployed_config():
    """mmdet's RPN names its head otherwise in the config; a head of another library keeps its scope."""
    head = {**copy.deepcopy(KINDS["mask_rcnn"]["rpn_head"]), "_scope_": "mmdet"}
    config = {"type": "psaq_mm.QuantizedModel", "host": "RPN", "quantization": {}, "backbone": {}, "rpn_head": head}
    found = deployed_model_config(
        config, [ExportedPart("images", ("backbone", "bbox_head"), "a.onnx")], "openvino", True
    )
    assert (found["type"], found["rpn_head"]["type"]) == ("RPN", "psaq_mm.RuntimeHead")
    assert (found["rpn_head"]["host"], found["rpn_head"]["_scope_"]) == ("RPNHead", "mmdet")
