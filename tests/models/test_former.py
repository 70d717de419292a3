"""Artifacts of earlier versions have the quantizers and norms of then."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.models.former import FOLDED, FORMS, forms_of
from psaq_mm.quantization import QuantLinear, QuantMatMul, QuantPolicy
from psaq_mm.quantization.convert import FACTORIES
from psaq_mm.quantization.fold import PAIRS
from tests.models.families import CASES
from tests.models.test_backbones import TIMM_VIT

TODAY = QuantPolicy().to_config()
FORMER = {key: value for key, value in TODAY.items() if key != "first_layer"}
LEVIT = "mmpretrain-levit"


def classifier(backbone: dict[str, Any], quantization: dict[str, Any]) -> nn.Module:
    init_default_scope("mmpretrain")
    described = {"type": "psaq_mm.QuantizedModel", "host": "mmpretrain.ImageClassifier"}
    return MODELS.build({**described, "backbone": copy.deepcopy(backbone), "quantization": quantization})


def products(model: nn.Module) -> int:
    return sum(isinstance(one, QuantMatMul) for one in model.modules())


def norms(model: nn.Module) -> int:
    return sum(isinstance(one, nn.BatchNorm2d) for one in model.modules())


def test_a_class_that_was_quantized_by_its_layers_alone_stays_so():
    backbone = CASES[LEVIT].backbone
    former, today = classifier(backbone, FORMER), classifier(backbone, TODAY)
    assert (products(former), products(today)) == (0, 2 * CASES[LEVIT].attentions)
    assert any(isinstance(one, QuantLinear) for one in former.modules()) and norms(former) > norms(today)


def test_norms_that_were_not_folded_stay():
    backbone = {"type": "TIMMBackbone", "model_name": "resnet10t"}
    assert norms(classifier(backbone, FORMER)) > norms(classifier(backbone, TODAY))


@pytest.mark.parametrize("quantization", [FORMER, TODAY], ids=["former", "today"])
def test_families_of_then_are_as_today(quantization):
    init_default_scope("mmpretrain")
    model = MODELS.build({"type": "psaq_mm.QuantizedTimmClassifier", **TIMM_VIT, "quantization": quantization})
    assert products(model) == 2 * 3


def test_all_names_are_registered_and_all_come_back():
    before = dict(FACTORIES.values), dict(PAIRS.values)
    assert before[0].keys() >= FORMS and before[1].keys() >= FOLDED
    with pytest.raises(KeyError), forms_of(FORMER):
        assert len(FACTORIES.values) < len(before[0])
        raise KeyError
    assert (FACTORIES.values, PAIRS.values) == before
    with forms_of(TODAY):
        assert (FACTORIES.values, PAIRS.values) == before
