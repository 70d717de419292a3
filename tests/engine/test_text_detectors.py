"""Grounding DINO and GLIP, tiny and with random weights: quantized by the runner, opened by mmdet."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console

from psaq_mm.engine.evaluation import evaluate
from psaq_mm.engine.job import Job
from psaq_mm.models import without_downloads
from psaq_mm.models.checkpoint import load_weights, read_checkpoint
from psaq_mm.models.hosts import host_class
from psaq_mm.quantization import quantizers
from tests.conftest import named, random_weights
from tests.models.hosts.grounded import DETECTORS, write_bert

TEXT_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "text", "custom_entities")
NAMES = ["disc", "ring"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def recipe(bert, tiny_recipe, tmp_path):
    """Makes the shrunken recipe with a detector that takes text, and writes its float checkpoint."""

    def make(kind: str, options: dict[str, Any] | None = None) -> Config:
        cfg = copy.deepcopy(tiny_recipe)
        preprocessor = cfg.model.data_preprocessor
        cfg.model = {**DETECTORS[kind](bert), "data_preprocessor": {**preprocessor, "pad_mask": False}}
        cfg.test_dataloader.dataset.merge({"return_classes": True, "indices": 1})
        cfg.test_dataloader.dataset.pipeline[-1].meta_keys = TEXT_KEYS
        cfg.test_evaluator.metric = ["bbox"]
        cfg.merge_from_dict(options or {})
        cfg.load_from = str(tmp_path / "float.pth")
        init_default_scope("mmdet")
        host_class(cfg.model.type)
        model = random_weights(MODELS.build(without_downloads(cfg.model)))
        # as files of the zoo have it, from an older version of transformers
        old = {"language_model.language_backbone.body.model.embeddings.position_ids": torch.arange(256)[None]}
        torch.save({"state_dict": {**model.state_dict(), **old}}, cfg.load_from)
        return named(cfg, tmp_path / "work")

    return make


@pytest.mark.parametrize("scope", ["backbone", "model"])
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_whole_run_and_what_mmdet_opens_of_it(recipe, kind, scope, tmp_path):
    job = Job(recipe(kind, {"dfq.quantization.scope": scope}), Console(quiet=True))
    job.run()
    float_row, quantized_row = job.results.rows
    assert float_row.metrics and quantized_row.metrics
    runner = job.runner
    parts = {name.partition(".")[0] for name, _ in quantizers(runner.student)}
    assert "backbone" in parts and "language_model" not in parts
    assert ("bbox_head" in parts) == (scope == "model")
    rows = json.loads((runner.folder / "coverage.json").read_text())["rows"]
    text = [row for row in rows if row["name"].startswith("language_model") and row["kind"] == "weight"]
    assert bool(text) == (scope == "model") and all("text branch" in row["reason"] for row in text)
    config, checkpoint = runner.artifact_paths
    opened = Config.fromfile(config)
    if scope == "model":
        assert evaluate(opened, checkpoint, tmp_path / "again") == quantized_row.metrics
    init_default_scope("mmdet")
    again = MODELS.build(copy.deepcopy(opened.model)).eval()
    load_weights(again, read_checkpoint(checkpoint)["state_dict"], str(checkpoint))
    data = {"inputs": [torch.zeros(3, 64, 64, dtype=torch.uint8)], "data_samples": [sample()]}
    found = [one.test_step(copy.deepcopy(data))[0].pred_instances for one in (again, pickle.loads(pickle.dumps(again)))]
    assert torch.equal(found[0].scores, found[1].scores) and len(found[0].scores) == 5
    assert set(found[0].label_names) <= set(NAMES)


def sample() -> Any:
    """A data sample with text for an empty image."""
    from mmdet.structures import DetDataSample

    size = {key: (64, 64) for key in ("img_shape", "ori_shape", "batch_input_shape", "pad_shape")}
    return DetDataSample(metainfo={**size, "scale_factor": (1.0, 1.0), "text": tuple(NAMES), "custom_entities": True})
