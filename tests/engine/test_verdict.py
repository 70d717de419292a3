"""The verdict of a run: expected losses, the layers with the largest errors, and overrides."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config

from psaq_mm.analysis.expected import CURVES, Estimate
from psaq_mm.engine import job as job_module
from psaq_mm.engine.analysis import verdict as module
from psaq_mm.engine.analysis.verdict import Verdict, expected_losses, verdict
from psaq_mm.errors import PSAQError
from psaq_mm.quantization import QuantPolicy

DISTANCES = {"features": 0.1, "logits": 0.05, "agreement": 97.0}


def test_a_run_ends_with_a_verdict(finished):
    found = finished.verdict
    assert set(found.expected) == {"bbox_mAP", "segm_mAP"}
    shares = list(found.worst.values())
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and 3 / found.layers < sum(shares) < 1
    names = [name for name, _ in finished.runner.student.named_modules()]
    QuantPolicy(overrides=found.overrides).check_patterns(names)
    assert [one["pattern"] for one in found.overrides] == list(found.worst)
    assert json.loads(finished.path.read_text())["verdict"] == json.loads(json.dumps(found.to_dict()))


def test_the_layers_named_are_those_without_which_the_outputs_are_nearest(finished):
    """The layers with the largest estimated errors cost something: without them less is expected to be lost."""
    found = finished.verdict
    for figure, estimate in found.relieved.items():
        assert estimate.expected < found.expected[figure].expected


def test_the_student_is_not_changed(finished):
    before = copy.deepcopy(finished.runner.student.state_dict())
    verdict(finished.runner, DISTANCES)
    after = finished.runner.student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_eight_bits_are_kept_in_floating_point_and_fewer_bits_raised(finished):
    assert {tuple(one) for one in finished.verdict.overrides} == {("pattern", "keep_fp")}
    assert finished.verdict.growth > 0


@pytest.mark.parametrize(
    ("distances", "figures"),
    [
        pytest.param(DISTANCES, ["bbox_mAP", "segm_mAP"], id="all"),
        pytest.param({}, [], id="nothing-measured"),
    ],
)
def test_expected_losses_of_a_detector(finished, distances, figures):
    assert list(expected_losses(finished.runner.teacher, distances)) == figures


def test_a_detector_without_masks_has_no_expected_loss_of_masks(finished):
    detector = copy.deepcopy(finished.runner.teacher)
    detector.roi_head.mask_head = None
    del detector.roi_head.mask_head
    assert list(expected_losses(detector, DISTANCES)) == ["bbox_mAP"]


def test_a_model_that_cannot_be_probed_still_has_an_expected_loss(finished, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("this model\nis exotic")

    warned = []
    monkeypatch.setattr(module, "gradient_scores", fail)
    monkeypatch.setattr(finished.runner.logger, "warning", warned.append)
    found = verdict(finished.runner, DISTANCES)
    assert found.expected and not found.worst and not found.overrides
    assert warned == ["the models are not searched for layers with large errors (RuntimeError: this model is exotic)"]


def test_the_verdict_in_words():
    found = Verdict(
        {"top1": Estimate(0.005, 0.012, 0.029)},
        50,
        {"blocks.0.fc1": 0.2, "blocks.3.qkv": 0.1, "head": 0.05},
        {"top1": Estimate(0.0, 0.004, 0.01)},
        ({"pattern": "blocks.0.fc1", "bits": 8},),
        2048,
    )
    assert found.sentences() == [
        "Expected loss, as a share of the float model's figure: top-1 1.2 % (0.5 to 2.9).",
        "Of the error of the backbone's outputs, 35 % comes from 3 of 50 layers: blocks.0.fc1, blocks.3.qkv, head.",
        "If they had no error: top-1 0.4 % (0.0 to 1.0). more_bits.py is the recipe with more bits for them, and 2 KiB "
        "more of weights.",
    ]
    assert replace(found, relieved=found.expected).sentences()[2:] == [
        "More bits for them would gain nothing that can be measured."
    ]
    assert Verdict({}).sentences() == []


def test_curves_of_all_figures_exist():
    assert set(CURVES) == {name for names in module.FIGURES.values() for name in names}


def test_more_bits_are_a_recipe_where_they_help(finished, monkeypatch):
    found = replace(
        finished.verdict,
        expected={"bbox_mAP": Estimate(0.1, 0.2, 0.3)},
        relieved={"bbox_mAP": Estimate(0.0, 0.1, 0.2)},
    )
    path = finished.runner.folder / "more_bits.py"
    before = path.read_text() if path.exists() else None
    assert found.helps
    monkeypatch.setattr(finished, "verdict", found)
    monkeypatch.setattr(job_module, "write_report", lambda *_: None)
    monkeypatch.setattr(finished, "contents", lambda: None)
    monkeypatch.setattr(job_module, "report_of", lambda _: None)
    monkeypatch.setattr(finished, "report_path", None)
    own = {"pattern": "backbone.patch_embed", "bits": 8}
    finished.recipe.dfq.quantization.overrides = [own]
    try:
        finished.report()
        recipe = Config.fromfile(path)
        assert recipe.dfq.quantization.overrides == [own, *found.overrides]
        assert "work_dir" not in recipe  # its run must not replace this one's files
        monkeypatch.setattr(finished, "verdict", replace(found, relieved=found.expected))
        finished.report()
        assert not path.exists()  # of an earlier run
    finally:
        del finished.recipe.dfq.quantization["overrides"]
        if before is not None:
            path.write_text(before)


def test_without_an_expected_loss_nothing_is_said_to_help(finished):
    found = replace(finished.verdict, expected={})
    assert found.relieved and not found.helps
    assert len(found.sentences()) == 1 and "layers" in found.sentences()[0]


def test_a_verdict_that_cannot_be_recorded_loses_nothing(finished, monkeypatch):
    def fail(*_: object) -> None:
        raise PSAQError("no space left on device")

    warned = []
    monkeypatch.setattr(finished.results, "save", fail)
    monkeypatch.setattr(finished.runner.logger, "warning", warned.append)
    finished.report()
    assert warned == ["no report was written (PSAQError: no space left on device)"]
