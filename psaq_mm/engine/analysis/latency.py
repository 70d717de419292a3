"""The time of each quantized layer in an engine, in floating point and in integers."""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.operations import Inputs, InputTensor, layer_inputs
from ...deployment import deployed, onnx_graph, open_session, save_onnx
from ...errors import ExportError
from ...models import calibration_function
from ...models.features import CalibrationOutputs
from ...quantization import Quantizer, QuantMatMul, calibrating, equalizing, freeze, quantizers

STAGE = "latency"
# The engine has one integer type, whatever the bits.
BITS = 8
FLOATS, INTEGERS = "32", "8"
# The engines' changes of the memory layout at the borders of a graph, which in a network depend on the neighbours.
BORDERS = ("Reorder", "ReorderInput", "ReorderOutput")
# Engines whose softmax has subnormal numbers, as torch's; that of OpenVINO has zeros in their place.
SUBNORMAL = ("onnxruntime",)
TINY = 1e-42
# Rounds at most; at least, if they take longer than so many seconds.
ROUNDS, FEWEST, LONGEST = 11, 3, 10.0
# The passes of a round take so many seconds at least, or are so many.
LEAST, MOST = 0.003, 20


class LayerTimes:
    """Measures the layers of a network that have no times yet.

    A layer is exported alone, as it is in the file of its network, once in floating point and once in integers. Layers
    of the same kind, sizes and quantizers are measured once. In several rounds both forms run in turn. The time of a
    round is the sum of the operators in the engine's own profile, with the quantization of the inputs, and that of a
    layer is the median of the rounds.

    Args:
        network: A quantized network at 8 bits, not calibrated.
        calls: The inputs of each layer at each call (:func:`psaq_mm.analysis.operations.layer_inputs`).
        engine: One of :data:`psaq_mm.deployment.ENGINES`; it has its usual number of threads.
        times: Seconds by layer, ``'32'`` and ``'8'``, for one image; receives those that are missing.
    """

    def __init__(
        self,
        network: nn.Module,
        calls: Mapping[str, Sequence[Inputs]],
        engine: str,
        times: dict[str, dict[str, float]],
    ) -> None:
        self.engine, self.times = engine, times
        self.keys: dict[str, list[str]] = {}
        self.distinct: dict[str, tuple[nn.Module, Inputs]] = {}
        for name, found in calls.items():
            layer = network.get_submodule(name)
            if name in times or not any(True for _ in quantizers(layer)):
                continue
            inputs = [flat(layer, one, engine in SUBNORMAL) for one in found]
            self.keys[name] = [signature(layer, one) for one in inputs]
            for key, one in zip(self.keys[name], inputs, strict=True):
                self.distinct.setdefault(key, (layer, one))

    def __len__(self) -> int:
        """The number of different measurements."""
        return len(self.distinct)

    def __iter__(self) -> Iterator[int]:
        """Measure, and yield the number of measurements so far.

        Layers with the same calls get their times at the same step.
        """
        done: dict[str, dict[str, float]] = {}
        for step, (key, (layer, inputs)) in enumerate(self.distinct.items(), 1):
            done[key] = seconds_of(layer, inputs, self.engine)
            for name, keys in self.keys.items():
                if name not in self.times and all(one in done for one in keys):
                    self.times[name] = total([done[one] for one in keys])
            yield step


def calls_of(network: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, list[Inputs]]:
    """The inputs of each layer of a network that is not calibrated; its quantizers are turned off."""
    for _, quantizer in quantizers(network):
        quantizer.enabled = False
    return layer_inputs(network, run)


def deployment_function(scope: str, teacher: Any) -> Callable[[nn.Module, Tensor], list[Tensor]]:
    """The function that runs the quantized layers of a model as it is used.

    Heads of two-stage detectors run on as many proposals and boxes as the detector's test settings keep, if it finds as
    many.

    Args:
        scope: ``'backbone'`` or ``'model'``.
        teacher: The FP model.
    """
    outputs = calibration_function(scope, teacher)
    if isinstance(outputs, CalibrationOutputs):
        kept = zip((teacher.rpn_head, teacher.roi_head), (1000, 100), strict=True)
        return CalibrationOutputs(teacher, *(head.test_cfg.get("max_per_img", usual) for head, usual in kept))
    return outputs


def signature(layer: nn.Module, inputs: Inputs) -> str:
    """A text that is equal for calls which take the same time."""
    own = [getattr(layer, key, None) for key in ("migration", "centered")]
    specs = [(name, quantizer.spec) for name, quantizer in quantizers(layer)]
    # Of layers, extra_repr() gives sizes, stride, padding and whether there is a bias.
    return repr((type(layer).__name__, layer.extra_repr(), own, specs, inputs))


def flat(layer: nn.Module, inputs: Inputs, subnormal: bool) -> Inputs:
    """The inputs with four dimensions, which sessions take.

    Example: a Linear's input of 2 x 7 x 7 x 96 is 98 tokens: (1, 1, 98, 96). Operands of 6 windows with 3 heads keep
    windows and heads: (6, 3, 49, 32).

    Args:
        layer: The layer or product.
        inputs: Its inputs.
        subnormal: Whether to keep the share of subnormal numbers, or to set it to 0.
    """
    shapes = [one.shape for one in inputs]
    if isinstance(layer, QuantMatMul):
        lead = torch.broadcast_shapes(*(one[:-2] for one in shapes))
        outer = math.prod(lead[:-1]), lead[-1] if lead else 1
        shapes = [(*outer, *one[-2:]) for one in shapes]
    elif isinstance(layer, nn.Linear):
        shapes = [(1, 1, math.prod(one[:-1]), one[-1]) for one in shapes]
    else:
        shapes = [(1, *one) if len(one) == 3 else one for one in shapes]
    shares = [one.subnormal if subnormal else 0.0 for one in inputs]
    return tuple(map(InputTensor, shapes, shares))


def seconds_of(layer: nn.Module, described: Inputs, engine: str) -> dict[str, float]:
    """Seconds of a call in floating point, and in integers if the layer can be exported so.

    Args:
        layer: A quantized layer or product.
        described: Its inputs (:func:`flat`).
        engine: One of :data:`psaq_mm.deployment.ENGINES`.

    Raises:
        ExportError: The layer cannot be exported in floating point, or the engine cannot read it.
    """
    layer = copy.deepcopy(layer).cpu().eval().requires_grad_(False)
    inputs = example(layer, described)
    with tempfile.TemporaryDirectory() as folder:
        files = {FLOATS: written(FloatLayer(layer), inputs, Path(folder, "float.onnx"))}
        with suppress(ExportError):
            files[INTEGERS] = written(integer_form(layer, inputs), inputs, Path(folder, "integers.onnx"))
        arrays = [one.numpy() for one in inputs.values()]
        passes = {form: passes_for(profiled(engine, file, arrays, 1)) for form, file in files.items()}
        rounds: dict[str, list[float]] = {form: [] for form in files}
        start = time.monotonic()
        for count in range(ROUNDS):
            if count >= FEWEST and time.monotonic() > start + LONGEST:
                break
            for form, file in files.items():
                rounds[form].append(profiled(engine, file, arrays, passes[form]))
    return {form: statistics.median(taken) for form, taken in rounds.items()}


def passes_for(seconds: float) -> int:
    """How many passes of so many seconds a round has."""
    return min(MOST, math.ceil(LEAST / max(seconds, 1e-6)))


def profiled(engine: str, file: Path, inputs: Sequence[np.ndarray], passes: int) -> float:
    """Seconds of a pass, mean over some, without :data:`BORDERS`."""
    profile = open_session(engine, file, profile=True).profile(inputs, passes)
    return sum(seconds for operator, seconds in profile.items() if operator not in BORDERS)


def written(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> Path:
    """Export a module to a file."""
    save_onnx(onnx_graph(module, inputs), path)
    return path


def total(calls: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum over the calls of a layer, of those forms that all calls have."""
    forms = [form for form in (FLOATS, INTEGERS) if all(form in one for one in calls)]
    return {form: round(sum(one[form] for one in calls), 9) for form in forms}


class FloatLayer(nn.Module):
    """What a layer computes if it is not quantized.

    Args:
        layer: The quantized layer or product.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """The output, as the tuple that the export needs."""
        if isinstance(self.layer, QuantMatMul):
            return (inputs[0] @ inputs[1],)
        return (self.layer.compute(inputs[0], self.layer.weight),)


class SingleLayer(nn.Module):
    """A network of one layer.

    Args:
        layer: The quantized layer or product.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """The output, as the tuple that the export needs."""
        return (self.layer(*inputs),)


def integer_form(layer: nn.Module, inputs: Mapping[str, Tensor]) -> nn.Module:
    """A layer with stored integers, calibrated on the inputs: the scales do not change the time.

    Raises:
        ExportError: The layer cannot be exported.
    """
    for _, quantizer in quantizers(layer):
        quantizer.enabled = True
    network = SingleLayer(layer)
    contexts = [equalizing, calibrating] if getattr(layer, "equalizes", False) else [calibrating]
    for context in contexts:
        with context(network), torch.no_grad():
            network(*inputs.values())
    freeze(network)
    return deployed(network)


def example(layer: nn.Module, described: Inputs) -> dict[str, Tensor]:
    """Random inputs, the same in each call; from 0 to 1 for logarithmic grids, which have no sign."""
    generator = torch.Generator().manual_seed(0)
    names = ("left", "right") if isinstance(layer, QuantMatMul) else ("input",)
    found = {}
    for name, one in zip(names, described, strict=True):
        quantizer: Quantizer | None = getattr(layer, f"{name}_quantizer")
        values = torch.randn(one.shape, generator=generator)
        if quantizer is not None and quantizer.spec.logarithmic:
            values = values.sigmoid()
        if one.subnormal:
            values[torch.rand(one.shape, generator=generator) < one.subnormal] = TINY
        found[name] = values
    return found
