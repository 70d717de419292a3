"""States, what each refuses, and what a checkpoint holds."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

from psaq_mm.quantization import (
    QuantizationError,
    Quantizer,
    QuantSpec,
    State,
    WeightQuantizer,
    activation_spec,
    sqnr,
    weight_spec,
)

PER_CHANNEL = QuantSpec(6, granularity="per_channel", axis=-1)
SPECS = pytest.mark.parametrize("spec", [activation_spec(4), PER_CHANNEL], ids=["per_tensor", "per_channel"])
KEYS = {"scale", "zero_point", "quant_min", "quant_max", "range_min", "range_max", "initialized", "sqnr_db"}


def calibrated(spec: QuantSpec, x: Tensor) -> Quantizer:
    quantizer = Quantizer(spec, "act")
    quantizer.observe()
    quantizer(x)
    quantizer.calibrate()
    return quantizer


def calibrated_weight(weight: Tensor, bits: int = 4, observer: str = "minmax") -> WeightQuantizer:
    quantizer = WeightQuantizer(weight_spec(bits, observer), "w")
    quantizer.calibrate_from(weight)
    return quantizer


def test_migration_keeps_one_zero_point_and_gives_quiet_channels_finer_steps() -> None:
    x = torch.randn(400, 3) * torch.tensor([0.1, 1.0, 10.0]) + 0.2
    half = calibrated(dataclasses.replace(PER_CHANNEL, bits=8, migration=0.5), x)
    size = x.abs().amax(0)
    # scales in the ratio of the square roots, exact but for float32's rounding
    torch.testing.assert_close(half.scale / half.scale[0], (size / size[0]).sqrt(), rtol=1e-4, atol=0)
    assert half.zero_point.unique().numel() == 1
    one = calibrated(activation_spec(8), x)
    assert float(half.scale[0]) < float(one.scale) / 5
    assert sqnr(x[:, 0], half(x)[:, 0]) > sqnr(x[:, 0], one(x)[:, 0]) + 10


class TestStates:
    def test_the_way_through(self) -> None:
        x, quantizer = torch.randn(10), Quantizer(activation_spec(4), "act")
        assert quantizer.state is State.UNCALIBRATED and not quantizer.initialized
        quantizer.observe()
        assert quantizer.state is State.OBSERVING
        assert quantizer(x) is x
        quantizer.calibrate()
        assert quantizer.state is State.CALIBRATED and quantizer.initialized
        assert quantizer.scale.requires_grad and quantizer.zero_point.requires_grad
        assert torch.unique(quantizer(x)).numel() <= 16
        quantizer.freeze()
        quantizer.freeze()
        assert quantizer.state is State.FROZEN
        assert not quantizer.scale.requires_grad and not quantizer.zero_point.requires_grad
        quantizer.unfreeze()
        assert quantizer.state is State.CALIBRATED
        quantizer.reset()
        assert quantizer.state is State.UNCALIBRATED and not quantizer.initialized

    def test_running_uncalibrated_says_what_to_do(self) -> None:
        with pytest.raises(QuantizationError, match="'fc1.input'.*calibrate the model or load a calibrated checkpoint"):
            Quantizer(activation_spec(8), "fc1.input")(torch.ones(1))

    @pytest.mark.parametrize("action", ["calibrate", "freeze", "unfreeze"])
    def test_wrong_order_is_refused(self, action: str) -> None:
        with pytest.raises(QuantizationError, match="'act' is uncalibrated"):
            getattr(Quantizer(activation_spec(8), "act"), action)()

    def test_calibrating_without_data_is_refused(self) -> None:
        quantizer = Quantizer(activation_spec(8), "act")
        quantizer.observe()
        with pytest.raises(QuantizationError, match="'act' saw no data"):
            quantizer.calibrate()

    def test_observing_again_starts_from_nothing(self) -> None:
        quantizer = calibrated(activation_spec(8), torch.tensor([-100.0, 100.0]))
        quantizer.observe()
        quantizer(torch.tensor([-1.0, 1.0]))
        quantizer.calibrate()
        assert quantizer.range_max.item() == 1.0

    def test_errors_of_observation_name_the_quantizer(self) -> None:
        quantizer = Quantizer(activation_spec(8), "act")
        quantizer.observe()
        with pytest.raises(QuantizationError, match="'act'.*NaN"):
            quantizer(torch.tensor([torch.nan]))

    def test_disabled_is_the_identity_in_every_state(self) -> None:
        x, quantizer = torch.randn(4), Quantizer(activation_spec(2), "act")
        quantizer.enabled = False
        assert quantizer(x) is x
        quantizer.observe()
        assert quantizer(x) is x and not quantizer.has_data

    def test_symmetric_activations_have_no_learned_zero_point(self) -> None:
        quantizer = calibrated(QuantSpec(8, symmetric=True), torch.randn(5))
        assert quantizer.scale.requires_grad and not quantizer.zero_point.requires_grad

    @SPECS
    def test_learns(self, spec: QuantSpec) -> None:
        """A range ten times too wide shrinks under gradient descent on its own error."""
        x = torch.randn(256, 4)
        quantizer = calibrated(spec, 10 * x)
        before = float((quantizer(x) - x).detach().square().mean())
        optimizer = torch.optim.Adam(
            [quantizer.scale, quantizer.zero_point], lr=float(quantizer.scale.detach().mean()) / 10
        )
        for _ in range(20):
            optimizer.zero_grad()
            (quantizer(x) - x).square().mean().backward()
            optimizer.step()
        assert float((quantizer(x) - x).detach().square().mean()) < before / 2


class TestSqnr:
    def test_is_unknown_until_recorded(self) -> None:
        x = torch.randn(100)
        quantizer = calibrated(activation_spec(4), x)
        quantizer(x)
        assert quantizer.sqnr is None

    def test_pools_the_energies_of_all_batches(self) -> None:
        batches = torch.randn(100), 5 * torch.randn(100)
        quantizer = calibrated(activation_spec(4), torch.cat(batches))
        quantizer.record = True
        outputs = [quantizer(batch).detach() for batch in batches]
        quantizer.record = False
        # The stored value is float32.
        assert quantizer.sqnr == pytest.approx(sqnr(torch.cat(batches), torch.cat(outputs)), rel=1e-6)
        quantizer.record = True
        quantizer(batches[0])
        assert quantizer.sqnr == pytest.approx(sqnr(batches[0], outputs[0]), rel=1e-6)
        quantizer.observe()
        assert quantizer.sqnr is None


class TestCheckpoint:
    @SPECS
    def test_round_trip_is_bit_identical(self, spec: QuantSpec) -> None:
        x = torch.randn(20, 3)
        quantizer = calibrated(spec, x)
        quantizer.record = True
        quantizer(x)
        assert set(quantizer.state_dict()) == KEYS
        buffer = io.BytesIO()
        torch.save(quantizer.state_dict(), buffer)
        buffer.seek(0)
        loaded = Quantizer(spec)
        loaded.load_state_dict(torch.load(buffer))
        assert loaded.state is State.CALIBRATED and loaded.scale.requires_grad
        assert torch.equal(loaded(x), quantizer(x))
        assert loaded.sqnr == quantizer.sqnr is not None

    @pytest.mark.parametrize("frozen", [False, True], ids=["calibrated", "frozen"])
    def test_weight_round_trip_is_bit_identical(self, frozen: bool) -> None:
        weight = torch.randn(6, 30)
        quantizer = calibrated_weight(weight, 4, "mse")
        loaded = WeightQuantizer(weight_spec(4, "mse"))
        loaded.load_state_dict(quantizer.state_dict())
        if frozen:
            loaded.freeze()
        assert torch.equal(loaded(weight), quantizer(weight))

    @pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
    def test_other_bits_are_refused(self, strict: bool) -> None:
        state = {f"fc.{key}": value for key, value in calibrated_weight(torch.randn(2, 3), 4).state_dict().items()}
        model = nn.ModuleDict({"fc": WeightQuantizer(weight_spec(8))})
        with pytest.raises(QuantizationError, match=r"'fc'.*4 bits \[-7, 7\], the model 8 bits \[-127, 127\]"):
            model.load_state_dict(state, strict=strict)

    def test_other_granularity_is_refused(self) -> None:
        state = calibrated(PER_CHANNEL, torch.randn(5, 3)).state_dict()
        with pytest.raises(QuantizationError, match="per tensor, the checkpoint has 3 values"):
            Quantizer(activation_spec(6), "act").load_state_dict(state)

    def test_a_checkpoint_that_cannot_be_checked_is_refused(self) -> None:
        state = calibrated(activation_spec(6), torch.randn(5)).state_dict()
        del state["quant_min"]
        with pytest.raises(QuantizationError, match="no quant_min"):
            Quantizer(activation_spec(6), "act").load_state_dict(state)

    def test_float_checkpoint_leaves_it_uncalibrated(self) -> None:
        quantizer = Quantizer(activation_spec(8))
        quantizer.load_state_dict({})
        assert quantizer.state is State.UNCALIBRATED

    def test_uncalibrated_checkpoint_loads_as_uncalibrated(self) -> None:
        quantizer = calibrated(activation_spec(8), torch.randn(4))
        quantizer.load_state_dict(Quantizer(activation_spec(8)).state_dict())
        assert quantizer.state is State.UNCALIBRATED and not quantizer.scale.requires_grad

    def test_loading_keeps_the_parameter_objects(self) -> None:
        quantizer = Quantizer(PER_CHANNEL)
        scale = quantizer.scale
        quantizer.load_state_dict(calibrated(PER_CHANNEL, torch.randn(5, 3)).state_dict())
        assert quantizer.scale is scale and scale.shape == (3,)


class TestCopies:
    @pytest.mark.parametrize(
        "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
    )
    def test_are_independent_and_equal(self, copier) -> None:
        x = torch.randn(30)
        quantizer = calibrated(activation_spec(4), x)
        twin = copier(quantizer)
        assert twin.state is State.CALIBRATED
        assert torch.equal(twin(x), quantizer(x))
        with torch.no_grad():
            twin.scale.mul_(2)
        assert not torch.equal(twin.scale, quantizer.scale)

    def test_copy_while_observing(self) -> None:
        quantizer = Quantizer(activation_spec(8))
        quantizer.observe()
        quantizer(torch.ones(2))
        twin = copy.deepcopy(quantizer)
        twin(torch.full((2,), 5.0))
        quantizer.calibrate()
        twin.calibrate()
        assert (quantizer.range_max.item(), twin.range_max.item()) == (1.0, 5.0)

    def test_inference_mode(self) -> None:
        weight = torch.randn(4, 4)
        quantizer = calibrated_weight(weight)
        with torch.inference_mode():
            inference = quantizer(weight)
        assert torch.equal(inference, quantizer(weight))
