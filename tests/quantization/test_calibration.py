"""Operations on all quantizers of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantizationError,
    QuantPolicy,
    State,
    WeightQuantizer,
    calibrating,
    check_calibrated,
    coverage,
    freeze,
    make_rounding,
    quantize_model,
    quantizers,
    recording_sqnr,
    relative_groups,
    sqnr,
    trainable_groups,
    unfreeze,
)
from tests.quantization.switching import enable_quantizers


def states(model: nn.Module) -> set[State]:
    return {quantizer.state for _, quantizer in quantizers(model)}


def test_calibrates_everything(net: nn.Module, images: Tensor) -> None:
    assert len(list(quantizers(net))) == 8
    assert states(net) == {State.CALIBRATED}
    assert net.embed.input_quantizer.range_max == images.max()


def test_all_batches_count(float_net: nn.Module, images: Tensor) -> None:
    quantize_model(float_net, QuantPolicy())
    with calibrating(float_net) as model, torch.no_grad():
        for image in images:
            model(image[None])
    assert float_net.embed.input_quantizer.range_max == images.max()


def test_uncalibrated_model_says_what_to_do(float_net: nn.Module, images: Tensor) -> None:
    quantize_model(float_net, QuantPolicy())
    for action in (check_calibrated, freeze, unfreeze, lambda model: recording_sqnr(model).__enter__()):
        with pytest.raises(QuantizationError, match="8 quantizers are not calibrated.*load a calibrated checkpoint"):
            action(float_net)
    with pytest.raises(QuantizationError, match="'embed.input_quantizer'"):
        float_net(images)


def test_modules_that_never_ran_are_all_named(float_net: nn.Module) -> None:
    quantize_model(float_net, QuantPolicy())
    with (
        pytest.raises(QuantizationError, match="2 quantizers saw no data: mlp.2.input_quantizer, head.input_quantizer"),
        calibrating(float_net),
    ):
        float_net.embed(torch.randn(1, 3, 8, 8))
        float_net.mlp[0](torch.randn(1, 8))
    assert float_net.mlp[0].input_quantizer.state is State.CALIBRATED
    assert float_net.head.input_quantizer.state is State.UNCALIBRATED


def test_an_error_inside_leaves_activations_uncalibrated(net: nn.Module, images: Tensor) -> None:
    with pytest.raises(RuntimeError, match="stop"), calibrating(net):
        net(images)
        raise RuntimeError("stop")
    activations = {q.state for _, q in quantizers(net) if not isinstance(q, WeightQuantizer)}
    assert activations == {State.UNCALIBRATED}


def test_disabled_quantizers_are_left_alone(net: nn.Module, images: Tensor) -> None:
    net.head.input_quantizer.enabled = False
    before = net.head.input_quantizer.scale.clone()
    with calibrating(net):
        net(10 * images)
    assert torch.equal(net.head.input_quantizer.scale, before)


def test_disabled_quantizers_leave_the_float_model(net: nn.Module, images: Tensor) -> None:
    quantized = net(images)
    enable_quantizers(net, False)
    assert not torch.equal(net(images), quantized)
    enable_quantizers(net, True)
    assert torch.equal(net(images), quantized)


def test_freeze_and_unfreeze(net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        net.head.weight.mul_(2)
        expected = net(images)
        net.head.weight.div_(2).mul_(2)  # the same weight; its scale is recomputed on freezing all the same
    freeze(net)
    assert states(net) == {State.FROZEN}
    assert torch.equal(net(images), expected)
    assert trainable_groups(net)["scale"] == []
    unfreeze(net)
    assert states(net) == {State.CALIBRATED}


def test_freezing_takes_the_scales_of_the_moved_weights(net: nn.Module) -> None:
    before = net.head.weight_quantizer.scale.clone()
    with torch.no_grad():
        net.head.weight.mul_(2)
    freeze(net)
    assert torch.equal(net.head.weight_quantizer.scale, 2 * before)


def test_recording_sqnr(net: nn.Module, images: Tensor) -> None:
    with recording_sqnr(net), torch.no_grad():
        net(images)
    assert all(quantizer.sqnr is not None and not quantizer.record for _, quantizer in quantizers(net))
    quantizer = net.head.weight_quantizer
    # float32 storage of the decibels.
    assert quantizer.sqnr == pytest.approx(sqnr(net.head.weight, quantizer(net.head.weight)), rel=1e-6)


def test_trainable_groups(net: nn.Module) -> None:
    net.embed.requires_grad_(False)
    groups = trainable_groups(net)
    assert {kind: len(group) for kind, group in groups.items()} == {"weight": 3, "bias": 3, "scale": 6}
    assert groups["weight"][-1] is net.head.weight
    assert not any(p is net.norm.weight or p is net.position for group in groups.values() for p in group)


def test_shared_parameters_train_once() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    model = quantize_model(nn.Sequential(a, b), QuantPolicy())
    assert len(trainable_groups(model)["weight"]) == 1


def test_student_of_a_copied_teacher(float_net: nn.Module, images: Tensor) -> None:
    teacher = float_net
    expected = teacher(images)
    student = quantize_model(copy.deepcopy(teacher), QuantPolicy())
    with calibrating(student), torch.no_grad():
        student(images)
    # W8A8 through five layers: a few per cent at most.
    assert (student(images) - expected).norm() / expected.norm() < 0.05
    assert torch.equal(teacher(images), expected)


def test_whole_checkpoint_round_trip(net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        net.mlp[0].weight.add_(0.01)  # as an optimizer step would, after the last forward
    state = copy.deepcopy(net.state_dict())
    fresh = quantize_model(type(net)().eval(), QuantPolicy())
    fresh.load_state_dict(state)
    assert torch.equal(fresh(images), net(images))
    freeze(fresh)
    freeze(net)
    assert torch.equal(fresh(images), net(images))


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_w4_checkpoint_does_not_enter_a_w8_model(net: nn.Module, strict: bool) -> None:
    w4 = quantize_model(type(net)().eval(), QuantPolicy(weight_bits=4))
    with pytest.raises(QuantizationError, match=r"'embed.weight_quantizer'.*8 bits.*4 bits"):
        w4.load_state_dict(net.state_dict(), strict=strict)


def test_transposed_convolutions_are_calibrated_measured_rounded_and_trained() -> None:
    """As all other layers are, on a weight whose output channels are its second dimension."""
    model, x = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2)), torch.randn(2, 3, 5, 5)
    quantize_model(model, QuantPolicy(weight_bits=4, weight_observer="mse"))
    with calibrating(model), torch.no_grad():
        model(x)
    rounding = make_rounding("gptq")
    with rounding.collect(model), torch.no_grad():
        model(x)
    before = model[0].weight.detach().clone()
    rounding.apply(model)
    assert torch.equal(model[0].weight, before)  # GPTQ is for Linear layers
    with recording_sqnr(model), torch.no_grad():
        model(x)
    rows = {row.name: row.sqnr for row in coverage(model, QuantPolicy()).rows if row.bits}
    assert set(rows) == {"0.weight", "0.input"} and 10 < rows["0.weight"] < rows["0.input"]
    assert {kind: len(found) for kind, found in trainable_groups(model).items()} == {"weight": 1, "bias": 1, "scale": 2}
    assert len(relative_groups(model, {"weight": 1e-3, "bias": 1e-3, "scale": 1e-3})) == 4
    freeze(model)
    assert model(x).shape == (2, 4, 10, 10)
