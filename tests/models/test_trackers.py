"""mmdet's models for video, on tiny models with random weights: the detector inside, and Mask2Former for video."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from psaq_mm.deployment.artifact import Artifact
from psaq_mm.engine.builder import build_student, keep_unreached
from psaq_mm.errors import UsageError
from psaq_mm.models import (
    artifact_model,
    backbone_of,
    calibration_function,
    pixel_units,
    policy_of,
    without_downloads,
)
from psaq_mm.quantization import calibrating, check_calibrated, coverage, quantizers
from tests.conftest import random_weights
from tests.models.test_detectors import MASK_TRANSFORMER
from tests.zoo import DETECTORS, SWIN, extractor

FRAMES, SIZE = 2, (64, 64)
PREPROCESSOR = {
    "type": "TrackDataPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "pad_size_divisor": 32,
}
EMBEDDING = {"in_channels": 16, "fc_out_channels": 32, "num_fcs": 1}
QUERIES = {
    key: value for key, value in MASK_TRANSFORMER.items() if key not in ("num_things_classes", "num_stuff_classes")
}
VIDEO = {
    "mask2former": {
        "type": "Mask2FormerVideo",
        "backbone": SWIN,
        "track_head": {
            **QUERIES,
            "type": "Mask2FormerTrackHead",
            "num_frames": FRAMES,
            "num_classes": 3,
            "positional_encoding": {"type": "SinePositionalEncoding3D", "num_feats": 16, "normalize": True},
        },
    },
    "masktrack-rcnn": {
        "type": "MaskTrackRCNN",
        "detector": DETECTORS["mask_rcnn"],
        "track_head": {
            "type": "RoITrackHead",
            "roi_extractor": extractor(7),
            "embed_head": {"type": "RoIEmbedHead", "roi_feat_size": 7, **EMBEDDING},
        },
        "tracker": {
            "type": "MaskTrackRCNNTracker",
            "match_weights": {"det_score": 1.0, "iou": 2.0, "det_label": 10.0},
        },
    },
    "qdtrack": {
        "type": "QDTrack",
        "detector": {
            **DETECTORS["mask_rcnn"],
            "type": "FasterRCNN",
            "roi_head": {k: v for k, v in DETECTORS["mask_rcnn"]["roi_head"].items() if not k.startswith("mask")},
        },
        "track_head": {
            "type": "QuasiDenseTrackHead",
            "roi_extractor": extractor(7),
            "embed_head": {
                "type": "QuasiDenseEmbedHead",
                "num_convs": 1,
                "conv_out_channels": 16,
                "embed_channels": 16,
                "norm_cfg": {"type": "GN", "num_groups": 4},
                "loss_track": {"type": "MultiPosCrossEntropyLoss"},
                "loss_track_aux": {"type": "MarginL2Loss"},
                **EMBEDDING,
            },
            "loss_bbox": {"type": "L1Loss"},
        },
        "tracker": {"type": "QuasiDenseTracker", "nms_conf_thr": 0.0, "init_score_thr": 0.0, "obj_score_thr": 0.0},
    },
}


def video() -> dict[str, Any]:
    """A batch of one video, as a data loader gives it."""
    sizes = dict.fromkeys(("img_shape", "ori_shape", "batch_input_shape", "pad_shape"), SIZE)
    frames = [
        DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0), "frame_id": index, "ori_video_length": FRAMES})
        for index in range(FRAMES)
    ]
    sample = TrackDataSample(metainfo={"key_frames_inds": list(range(FRAMES)), "ref_frames_inds": []})
    sample.video_data_samples = frames
    return {"inputs": [torch.randint(0, 256, (FRAMES, 3, *SIZE), dtype=torch.uint8)], "data_samples": [sample]}


@pytest.mark.parametrize("scope", ["backbone", "model"])
@pytest.mark.parametrize("kind", VIDEO)
@torch.no_grad()
def test_it_is_calibrated_and_finds_objects_in_a_video(kind, scope):
    init_default_scope("mmdet")
    described = without_downloads(ConfigDict({**copy.deepcopy(VIDEO[kind]), "data_preprocessor": PREPROCESSOR}))
    quantization = {"scope": scope}
    teacher = random_weights(MODELS.build(copy.deepcopy(described))).eval()
    artifact = artifact_model(described, quantization)
    policy = keep_unreached(artifact, teacher, SIZE, policy_of(quantization)[0])
    student = build_student(artifact, teacher)
    forward, images = calibration_function(scope, teacher), torch.randn(2, 3, *SIZE)
    with calibrating(student):
        forward(student, images)
    check_calibrated(student)
    # of ImageNet's mean and deviation, red from 0 to 255
    assert float(pixel_units(teacher).lower[0]) == pytest.approx(-2.118, abs=1e-3)
    owner = "detector.backbone" if "detector" in VIDEO[kind] else "backbone"
    assert {name.startswith(owner) for name, _ in quantizers(student)} == (
        {True} if scope == "backbone" else {True, False}
    )
    rows = coverage(student, policy).rows if scope == "model" else ()
    left = {row.name.partition(".")[0] for row in rows if row.kind == "weight" and row.bits is None}
    # the embeddings by which objects are found again
    assert left == ({"track_head"} if scope == "model" and "detector" in VIDEO[kind] else set())
    batch = video()
    again = pickle.loads(pickle.dumps(student))
    found = [one.test_step(copy.deepcopy(batch))[0].video_data_samples for one in (student, again)]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.pred_track_instances.scores, theirs.pred_track_instances.scores)
    assert len(found[0]) == FRAMES
    MODELS.build(artifact).load_state_dict(student.state_dict())


def test_patterns_are_those_of_the_detector():
    init_default_scope("mmdet")
    described = without_downloads(ConfigDict(copy.deepcopy(VIDEO["qdtrack"])))
    artifact = artifact_model(described, {"overrides": [{"pattern": "backbone.patch_embed", "keep_fp": True}]})
    model = MODELS.build(artifact)
    name, part = backbone_of(model)
    assert name == "backbone" and part is model.detector.backbone
    assert not any("patch_embed" in key for key, _ in quantizers(model)) and any(quantizers(model))


def test_a_tracker_cannot_be_exported(tmp_path):
    cfg = Config({"model": copy.deepcopy(VIDEO["qdtrack"]), "default_scope": "mmdet"})
    with pytest.raises(UsageError, match="QDTrack is a tracker, which cannot be exported: quantize its detector"):
        Artifact(cfg, tmp_path / "none.pth")
