"""Which backbones take images of another size than that for which they were built."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from psaq_mm.errors import UsageError
from psaq_mm.models import artifact_model, check_image_size
from tests.models.families import CASES
from tests.quantization.switching import enable_quantizers

# with positions or maps of one size
FIXED = ("mmseg-beit", "mmseg-mae", "mmpretrain-beit", "mmpretrain-beit-shared-bias", "mmpretrain-eva02")
FIXED += ("mmpretrain-tnt", "mmpretrain-hivit", "mmpretrain-mixmim")
FREE = ("mmpretrain-eva", "mmpretrain-dinov2", "mmpretrain-deit3", "mmpretrain-revvit", "mmpretrain-t2t-vit")
FREE += ("mmpretrain-clip", "mmpretrain-davit", "mmpretrain-sam")


@pytest.mark.parametrize("name", FIXED)
def test_another_size_is_refused_before_the_forward_pass(name):
    case = CASES[name]
    model = case.build()
    check_image_size(model, (case.size, case.size))
    with pytest.raises(UsageError, match=rf"do not fit \w+: it was built for {case.size}x{case.size}"):
        check_image_size(model, (2 * case.size, case.size))


@pytest.mark.parametrize("name", FREE)
def test_the_quantized_form_computes_on_another_size_what_the_library_does(name):
    case = CASES[name]
    teacher = case.build()
    model = ConfigDict(type="Anything", backbone=copy.deepcopy(case.backbone))
    student = MODELS.build(artifact_model(model, {"scheme": "deploy"}).backbone)
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.eval()
    enable_quantizers(student, False)
    check_image_size(student, (2 * case.size, case.size))
    images = torch.randn(1, 3, 2 * case.size, case.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(student(images), teacher(images), strict=True):
            # relative to the largest element: other orders of the same float32 sums, through all layers
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))
