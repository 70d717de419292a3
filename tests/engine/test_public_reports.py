"""What configs of other people put where ours put something else: whole runs of the shrunken demo."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook
from mmengine.registry import METRICS, MODELS, init_default_scope
from PIL import Image
from rich.console import Console

from psaq_mm.engine import DFQRunner
from psaq_mm.engine.job import Job
from psaq_mm.engine.results import Results, as_figure
from psaq_mm.models import pixel_bounds
from psaq_mm.models.hosts.types import short_type, types_as_names
from tests.conftest import ROOT, SIZE, random_weights

NO_CYCLES = {"dfq.distill.cycles": 0}
TEST_PARTS = ("test_dataloader", "test_evaluator", "test_cfg")


@METRICS.register_module(force=True)
class SeveralFigures(BaseMetric):
    """Figures of every kind that public evaluators return."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {
            "per_class": [0.25, float("nan")],
            "matrix": torch.arange(4).view(2, 2),
            "array": np.float32([0.5]),
            "number": np.float64(0.5),
            "by_name": {"disc": 1},
            "text": "0.1 0.2",
        }


def test_figures_that_are_no_number_are_kept_and_left_out_of_tables(run_dfq, tmp_path):
    outcome = run_dfq({**NO_CYCLES, "test_evaluator": {"type": "SeveralFigures", "_delete_": True}})
    assert outcome.code == 0, outcome.err
    path = tmp_path / "work" / "results.json"
    found = json.loads(path.read_text())["rows"][1]["metrics"]
    assert found == {
        "per_class": [0.25, None],
        "matrix": [[0.0, 1.0], [2.0, 3.0]],
        "array": [0.5],
        "number": 0.5,
        "by_name": {"disc": 1.0},
        "text": "0.1 0.2",
    }
    row = Results.from_dict({**json.loads(path.read_text())}).rows[1]
    assert row.scalars == {"number": 0.5}


@pytest.mark.parametrize(
    ("value", "figure"),
    [(True, 1.0), (3, 3.0), (torch.tensor(0.5), 0.5), ((1, 2), [1.0, 2.0]), (None, None), ({1: 2}, {"1": 2.0})],
    ids=str,
)
def test_a_figure_is_plain(value, figure):
    assert as_figure(value) == figure


@pytest.mark.parametrize("how", ["absent", "None", "in part"])
def test_without_a_test_set_the_quantized_model_is_delivered(run_dfq, recipe, tmp_path, how):
    cfg = recipe(NO_CYCLES)
    for part in TEST_PARTS[:1] if how == "in part" else TEST_PARTS:
        cfg[part] = None
        if how == "absent":
            cfg.pop(part)
    cfg.dump(tmp_path / "recipe.py")
    outcome = run_dfq(config=tmp_path / "recipe.py")
    assert outcome.code == 0, outcome.err
    assert " ".join(outcome.out.split()).count("evaluation skipped: the config names no test set") == 2
    assert (tmp_path / "work" / "quantized.pth").exists()
    record = json.loads((tmp_path / "work" / "results.json").read_text())
    assert [row["metrics"] for row in record["rows"]] == [{}, {}] and record["images"] == 0


class Own:
    pass


def test_a_type_may_be_a_class_or_an_object():
    assert short_type({"type": EMAHook}) == short_type({"type": "mmengine.EMAHook"}) == "EMAHook"
    assert short_type(Own()) == "Own" and short_type({"type": Own}) == "Own"
    named = types_as_names({"a": [{"type": EMAHook}], "b": (1, "x")})
    assert named == {"a": [{"type": "mmengine.hooks.ema_hook.EMAHook"}], "b": (1, "x")}


def test_a_config_with_classes_is_the_one_with_names(recipe, finished):
    """As new-style configs have them, in hooks, the model, the data set and the evaluator."""
    from mmdet.evaluation import CocoMetric
    from mmdet.models import FPN, MaskRCNN, SwinTransformer
    from mmengine.runner import TestLoop

    from psaq_mm.datasets import DemoScenes

    cfg = recipe()
    cfg.custom_hooks = [{"type": EMAHook}]
    cfg.model.type, cfg.model.backbone.type, cfg.model.neck.type = MaskRCNN, SwinTransformer, FPN
    cfg.test_evaluator.type, cfg.test_dataloader.dataset.type, cfg.test_cfg.type = CocoMetric, DemoScenes, TestLoop
    job = Job(cfg, Console(quiet=True))
    job.run()
    assert [row.metrics for row in job.results.rows] == [row.metrics for row in finished.results.rows]
    assert job.runner.pool.sha256() == finished.runner.pool.sha256()
    again = Config.fromfile(job.runner.artifact_paths[0])
    assert again.test_evaluator.type.endswith("CocoMetric") and again.model.type.endswith("MaskRCNN")
    init_default_scope("mmdet")
    MODELS.build(again.model)


def test_a_pure_python_config_is_read(run_dfq, recipe, tmp_path):
    """lazy_import: types are imported objects, the base is a module."""
    recipe(NO_CYCLES).dump(tmp_path / "plain.py")
    text = (tmp_path / "plain.py").read_text()
    head = "from mmdet.models import MaskRCNN\nfrom mmengine.hooks import EMAHook\n"
    text = text.replace("type='MaskRCNN'", "type=MaskRCNN")
    assert "type=MaskRCNN" in text
    (tmp_path / "lazy.py").write_text(f"{head}{text}\ncustom_hooks = [dict(type=EMAHook)]\n")
    outcome = run_dfq(config=tmp_path / "lazy.py")
    assert outcome.code == 0, outcome.err
    assert "MaskRCNN" in (tmp_path / "work" / "quantized.py").read_text()


@pytest.mark.parametrize(("channels", "statistics"), [(1, ([40.0], [20.0])), (3, ([100.0], [50.0])), (1, None)])
def test_images_have_the_models_own_channels(recipe, tmp_path, channels, statistics):
    mean, std = statistics or (None, None)
    own = {"mean": mean, "std": std, "bgr_to_rgb": channels == 3}
    options = {f"model.data_preprocessor.{key}": value for key, value in own.items()}
    options |= {
        "model.backbone.in_channels": channels,
        **dict.fromkeys(TEST_PARTS),
        "load_from": str(tmp_path / "m.pth"),
    }
    cfg = recipe(options)
    init_default_scope("mmdet")
    torch.save({"state_dict": random_weights(MODELS.build(copy.deepcopy(cfg.model))).state_dict()}, cfg.load_from)
    job = Job(cfg, Console(quiet=True))
    job.run()
    images = job.runner.pool.images
    assert images.shape[1:] == (channels, SIZE, SIZE)
    low, high = pixel_bounds(job.runner.teacher)
    # float32 around 255
    assert bool((images >= low.view(-1, 1, 1) - 1e-3).all() and (images <= high.view(-1, 1, 1) + 1e-3).all())
    picture = np.asarray(Image.open(job.runner.folder / "samples.png"))
    assert picture.shape[2] == 3 and (channels == 3 or bool((picture == picture[..., :1]).all()))


def folded(state: dict, mean: torch.Tensor, std: torch.Tensor) -> dict:
    """The weights of a model whose first convolution takes ``(p - mean) / std`` instead of ImageNet's normalisation."""
    m, s = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    key = "backbone.patch_embed.projection"
    weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
    shifted = bias + (weight * ((mean - m) / s).view(1, 3, 1, 1)).sum((1, 2, 3))
    return {**state, f"{key}.weight": weight * (std / s).view(1, 3, 1, 1), f"{key}.bias": shifted}


FORMS = {"none": (0.0, 1.0), "half": (127.5, 127.5), "unit": (0.0, 255.0)}


def in_form(cfg: Config, form: str, path) -> Config:
    mean, std = (torch.full((3,), value) for value in FORMS[form])
    loaded = torch.load(cfg.load_from, weights_only=True)
    torch.save({**loaded, "state_dict": folded(loaded["state_dict"], mean, std)}, path)
    cfg.load_from = str(path)
    none = form == "none"
    cfg.model.data_preprocessor.merge({"mean": None if none else mean.tolist(), "std": None if none else std.tolist()})
    return cfg


@pytest.mark.parametrize("form", FORMS)
def test_wherever_the_normalisation_stands_images_and_student_are_the_same(recipe, finished, tmp_path, form):
    runner = DFQRunner.from_cfg(in_form(recipe(), form, tmp_path / "folded.pth"))
    runner.train()
    pixels = []
    for one in (runner, finished.runner):
        low, high = (bound.view(-1, 1, 1) for bound in pixel_bounds(one.teacher))
        pixels.append(255 * (one.pool.images - low) / (high - low))
    # the same steps on the same images, but for float32's rounding, which Adam carries on: a grey level or two
    assert float((pixels[0] - pixels[1]).abs().mean()) < 1.0
    moved = []
    for one in (runner, finished.runner):
        key = "backbone.patch_embed.projection.weight"
        before, after = one.teacher.state_dict()[key], one.student.state_dict()[key]
        moved.append(float((after - before).norm() / before.norm()))
    # Relative to their size, weights in other units move alike; in absolute ones 57 and 4 times as far. Digits decide
    # signs of small gradients, of which Adam makes whole steps: two of them, here.
    assert moved[0] == pytest.approx(moved[1], rel=0.3) and moved[1] > 0


@pytest.mark.full
@pytest.mark.parametrize("form", ["none", "half"])
def test_the_trained_demo_keeps_its_figures_in_any_form(tmp_path, form, monkeypatch):
    """Two cycles of fifteen student steps on 40 images: 0.130 before rates and images had units of their own."""
    monkeypatch.chdir(ROOT)
    cfg = Config.fromfile(ROOT / "configs" / "demo" / "mask_rcnn_swin_nano_w8a8.py")
    cfg.merge_from_dict(
        {
            "work_dir": str(tmp_path / "work"),
            "experiment_name": f"folded_{form}",
            "visualizer.name": f"folded_{form}",
            "dfq.distill.cycles": 2,
            "test_dataloader.dataset.images": 40,
            "test_dataloader.dataset.data_root": f"{tmp_path}/data/",
            "test_evaluator.ann_file": f"{tmp_path}/data/val.json",
        }
    )
    job = Job(in_form(cfg, form, tmp_path / "folded.pth"), Console(quiet=True))
    job.run()
    float_ap, ap = (row.metrics["coco/bbox_mAP"] for row in job.results.rows)
    # 0.626 in ImageNet's units, 0.624 before quantization
    assert float_ap == pytest.approx(0.624, abs=0.002) and ap == pytest.approx(0.626, abs=0.01)
