"""What a generator step asks of the networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from psaq_mm.distillation import Competition, ImageGenerator
from psaq_mm.engine import DFQRunner
from psaq_mm.generation import Discrepancy
from psaq_mm.models import backbone_outputs
from psaq_mm.quantization import calibrating, freeze
from tests.conftest import SIZE, named


@pytest.fixture(scope="module")
def runner(tiny_recipe, tiny_checkpoint, tmp_path_factory) -> DFQRunner:
    """With a calibrated student."""
    runner = DFQRunner.from_cfg(named(copy.deepcopy(tiny_recipe), tmp_path_factory.mktemp("generator")))
    runner.prepare()
    with calibrating(runner.student), torch.no_grad():
        backbone_outputs(runner.student, torch.randn(2, 3, SIZE, SIZE, device=runner.device))
    freeze(runner.student)
    runner.student.requires_grad_(False)
    return runner


class Passes:
    """Counts forward passes of a model's backbone and notes what its products are computed in."""

    def __init__(self, model: nn.Module) -> None:
        self.count, self.types = 0, set()
        model.backbone.register_forward_hook(lambda *_: setattr(self, "count", self.count + 1))
        for module in model.backbone.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _, args, output: self.types.add(output.dtype))


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("competition", [0.0, 1.0], ids=["alone", "against-the-student"])
def test_passes_of_a_step(runner, amp, competition):
    """One of the teacher for all terms, none of the student without competition; bfloat16 where no student is near."""
    options = {"amp": amp, "gradient_every": 100, "keep_smoothness": True}
    generator = ImageGenerator(runner.state.teacher, torch.Generator(), 0, pytest.fail, **options)
    images = torch.randn(2, 3, SIZE, SIZE, device=runner.device)
    distance = Discrepancy().to(runner.device)
    with torch.no_grad():
        distance.fit(backbone_outputs(runner.teacher, images))
    teacher, student = Passes(runner.teacher), Passes(runner.student)
    rival = Competition(runner.student, backbone_outputs, distance, competition)
    found = generator.optimize(images, 3, lambda _: None, rival)
    # One more of each finds the balance of the competition.
    assert (teacher.count, student.count) == ((4, 4) if competition else (3, 0))
    assert teacher.types == {torch.bfloat16 if amp and not competition else torch.float32}
    assert torch.isfinite(found).all() and not torch.equal(found, images)
    assert all(parameter.grad is None for model in (runner.teacher, runner.student) for parameter in model.parameters())
