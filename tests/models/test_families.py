"""Every backbone family: equality in FP32, quantization, tokens, artifacts and exported files, on small models."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from psaq_mm.models import AttentionTaps, artifact_model, quantize_in_place
from psaq_mm.quantization import (
    QuantConv2d,
    QuantizedLayer,
    QuantLinear,
    QuantMatMul,
    QuantPolicy,
    calibrating,
    coverage,
    sqnr,
)
from tests.models.families import CASES, Case
from tests.models.test_backbones import outputs
from tests.quantization.switching import enable_quantizers

# Of timm's families, which resemble those of OpenMMLab, these run every time.
QUICK = (
    "beit",
    "eva",
    "maxvit",
    "hiera",
    "xcit",
    "levit",
    "pvt-v2",
    "twins-svt",
    "mvitv2",
    "cait",
    "efficientvit-mit",
    "nextvit",
)
EVERY = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=[pytest.mark.full] if name.startswith("timm-") and name.removeprefix("timm-") not in QUICK else [],
            id=name,
        )
        for name, case in CASES.items()
    ],
)
# activations whose derivative jumps
KINKED = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.MaxPool2d)
SCHEMES = pytest.mark.parametrize("scheme", ["deploy", "paper"])


def images_of(case: Case, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))


def student_of(case: Case, teacher: nn.Module, scheme: str = "deploy") -> nn.Module:
    """The quantized backbone with the teacher's weights, built from an artifact's config."""
    model = ConfigDict(type="Anything", backbone=copy.deepcopy(case.backbone))
    student = MODELS.build(artifact_model(model, {"scheme": scheme}).backbone)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected and all("_quantizer." in key for key in missing)
    student.eval()
    return student


def calibrated(case: Case) -> tuple[nn.Module, nn.Module]:
    teacher = case.build()
    student = student_of(case, teacher)
    with torch.no_grad(), calibrating(student):
        student(images_of(case))
    return teacher, student


@EVERY
@SCHEMES
def test_values_and_gradients_are_those_of_the_library_in_fp32(case, scheme):
    teacher = case.build()
    student = student_of(case, teacher, scheme)
    enable_quantizers(student, False)
    found = []
    for model in (student, teacher):
        images = images_of(case, 4).requires_grad_()
        levels = outputs(model, images)
        # a fixed weight for each element: a sum behind a norm would have no gradient
        loss = sum((one * torch.linspace(-1, 1, one[0].numel()).view_as(one[0])).sum() for one in levels)
        (gradient,) = torch.autograd.grad(loss, images)
        found.append([*levels, gradient])
    for number, (ours, theirs) in enumerate(zip(*found, strict=True), 1):
        # relative to the largest element: other orders of the same float32 sums, through all layers
        allowed = 1e-5 * max(1.0, float(theirs.abs().max()))
        errors = (ours - theirs).abs().flatten(1).amax(1).sort().values
        # A rounding may put the input of a ReLU on the other side of 0, which changes the gradient of that image.
        bent = number == len(found[0]) and any(isinstance(one, KINKED) for one in teacher.modules())
        counted = errors[: len(errors) // 2] if bent else errors
        assert float(counted.max()) <= allowed


@EVERY
def test_it_is_quantized_and_comes_back_from_its_state_and_from_pickle(case):
    teacher, student = calibrated(case)
    images = images_of(case)
    with torch.no_grad():
        found, expected = outputs(student, images), outputs(teacher, images)
        # 8 bits in all layers in a row, of random weights
        assert all(0 < (a - b).norm() < 0.15 * b.norm() for a, b in zip(found, expected, strict=True))
        other = student_of(case, teacher)
        other.load_state_dict(student.state_dict())
        unpickled = pickle.loads(pickle.dumps(student)) if case.pickled else student
        for again in (other, unpickled, copy.deepcopy(student)):
            assert all(torch.equal(a, b) for a, b in zip(outputs(again, images), found, strict=True))


@EVERY
@SCHEMES
def test_both_products_of_each_attention_and_all_layers_are_quantized(case, scheme):
    student = student_of(case, case.build(), scheme)
    products = [one for one in student.modules() if isinstance(one, QuantMatMul)]
    assert len(products) == 2 * case.attentions
    for name, module in student.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not any(part in name for part in case.float_layers):
            assert isinstance(module, (QuantLinear, QuantConv2d)), name
    rows = coverage(student, QuantPolicy(scheme=scheme), "backbone").rows
    unexplained = ("", "no quantizer was asked for", "not converted: outside the quantized part")
    for row in rows:
        assert row.bits is not None or row.reason not in unexplained and "register" not in row.reason, row
    if scheme == "deploy":
        kept = [row for row in rows if row.kind == "product" and row.bits is None]
        assert not kept


@EVERY
def test_a_layer_with_a_scale_for_each_channel_alone_reads_a_norms_output(case):
    """So that the norm's gamma and beta can contain these scales."""
    model = quantize_in_place(case.build(), {"norm_inputs": "per_channel"})
    names = {module: name for name, module in model.named_modules()}
    normed: list[tuple[str, torch.Tensor]] = []
    readers: dict[str, set[str]] = {}

    def values(tokens: torch.Tensor) -> torch.Tensor:
        # a reordering shares them, and what pads windows is 0
        return tokens.detach()[tokens != 0].sort().values

    def record(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        normed.append((names[module], values(output)))

    def compare(layer: nn.Module, args: tuple) -> None:
        own = values(args[0])
        for norm, found in normed:
            if own.shape == found.shape and torch.equal(own, found):
                readers.setdefault(norm, set()).add(names[layer])

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(record)
        elif isinstance(module, (QuantLinear, QuantConv2d)):
            module.register_forward_pre_hook(compare)
    with torch.no_grad(), calibrating(model):
        model(images_of(case))
    alone = {next(iter(layers)) for layers in readers.values() if len(layers) == 1}
    linear = [(name, module) for module, name in names.items() if isinstance(module, QuantLinear)]
    assert {name for name, module in linear if module.input_quantizer.spec.per_channel} <= alone


@EVERY
def test_attention_yields_the_patch_tokens_of_each_image(case):
    teacher = case.build()
    images = images_of(case).requires_grad_()
    with torch.no_grad():
        before = outputs(teacher, images)
    with AttentionTaps(teacher) as taps:
        during = outputs(teacher, images)
        layers = taps.take()
    assert len(layers) == (case.attentions if case.taps is None else case.taps)
    # torch's attention is computed in another order while tapped
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(before, during, strict=True))
    assert all(len(layer.tokens) == len(images) for layer in layers)
    found = tuple(dict.fromkeys(layer.patches().tokens.shape[1] * layer.patches().tokens.shape[2] for layer in layers))
    assert case.patches is None or found == case.patches
    (gradient,) = torch.autograd.grad(sum(layer.patches().tokens.square().sum() for layer in layers), images)
    assert bool(gradient.isfinite().all()) and bool((gradient.flatten(1).abs().sum(1) > 0).all())
    with AttentionTaps(teacher) as taps, torch.no_grad():
        outputs(teacher, images[:1])
        alone = taps.take()
    for one, all_of_them in zip(alone, layers, strict=True):
        # tokens of an image do not depend on the others in its batch, up to the order of sums
        torch.testing.assert_close(one.tokens, all_of_them.tokens[:1].detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.full
@EVERY
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_exported_files_compute_what_the_simulation_does(case, engine, tmp_path):
    for package in ("onnx", "onnxscript", engine):
        if find_spec(package) is None:
            pytest.skip("the extra [deploy] is not installed")
    if case.not_exported:
        pytest.skip(case.not_exported)
    if case.not_in_openvino and engine == "openvino":
        pytest.skip(case.not_in_openvino)
    from psaq_mm.deployment import quantized_onnx
    from psaq_mm.deployment.engines import open_session
    from psaq_mm.deployment.export import write_model

    _, student = calibrated(case)
    kind, suffix = {"onnxruntime": ("onnx", ".onnx"), "openvino": ("openvino", ".xml")}[engine]
    proto = quantized_onnx(student, (case.size, case.size), batch=1)
    target = Path(tmp_path, f"backbone{suffix}")
    write_model(proto, target, kind)
    image = images_of(case, 1)
    with torch.no_grad():
        expected = outputs(student, image)
    found = open_session(engine, target).run(image.numpy())
    assert any(isinstance(one, QuantizedLayer) for one in student.modules())
    # activations between two integers may be rounded to either, which these narrow random networks carry on
    assert all(sqnr(want, torch.as_tensor(got)) > 20 for want, got in zip(expected, found, strict=True))
