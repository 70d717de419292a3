"""Operations on all quantizers of a model: calibrate, freeze, switch, measure, find what to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from ..errors import QuantizationError
from .layers import QuantizedLayer
from .quantizer import Quantizer, State, WeightQuantizer


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Name and module of every quantizer, shared ones once."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantizer))


def set_enabled(model: nn.Module, enabled: bool) -> None:
    """Switches all quantizers on, or off (the model then computes as the float one, in every state)."""
    for _, quantizer in quantizers(model):
        quantizer.enabled = enabled


def freeze(model: nn.Module) -> None:
    """Fixes all scales, those of weights after bringing them up to date.

    Raises:
        QuantizationError: A quantizer isn't calibrated.
    """
    check_calibrated(model)
    for layer in quantized_layers(model):
        layer.refresh()
    for _, quantizer in quantizers(model):
        quantizer.freeze()


def unfreeze(model: nn.Module) -> None:
    """Makes activation scales learnable again and lets weight scales follow the weights.

    Raises:
        QuantizationError: A quantizer isn't calibrated.
    """
    check_calibrated(model)
    for _, quantizer in quantizers(model):
        quantizer.unfreeze()


def check_calibrated(model: nn.Module) -> None:
    """Makes sure that every quantizer is ready to run.

    Raises:
        QuantizationError: Some aren't; one line with their number, the first of them and what to do.
    """
    names = [name for name, quantizer in quantizers(model) if quantizer.state not in (State.CALIBRATED, State.FROZEN)]
    if names:
        raise QuantizationError(
            f"{len(names)} quantizers are not calibrated, the first is {names[0]!r}: "
            "calibrate the model or load a calibrated checkpoint"
        )


@contextmanager
def calibrating(model: nn.Module, across_processes: bool = False) -> Iterator[nn.Module]:
    """Calibrates a model on what runs through it inside the ``with`` block.

    Weights are calibrated on entry, so activations are observed with quantized weights and unquantized activations.
    Quantizers that are switched off are left alone. If the block raises, activations are left uncalibrated.

    Example::

        with calibrating(model), torch.no_grad():
            for batch in samples:
                model(batch)

    Args:
        model: A model with quantizers; calibrating again starts from nothing.
        across_processes: Whether all processes of ``torch.distributed`` calibrate the same model, each on batches of
            its own: ranges are then those of all batches, in every process.

    Yields:
        The model.

    Raises:
        QuantizationError: A quantizer saw no data (all such are named), or a weight isn't finite.
    """
    observing = {name: q for name, q in _activations(model) if q.enabled}
    for quantizer in observing.values():
        quantizer.observe()
    for layer in quantized_layers(model):
        layer.calibrate_weight()
    try:
        yield model
    except BaseException:
        for quantizer in observing.values():
            quantizer.reset()
        raise
    idle = [name for name, quantizer in observing.items() if not quantizer.has_data]
    if across_processes:
        # A quantizer is merged by all processes or by none, or they would wait for each other forever.
        everyones: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everyones, idle)
        idle = [name for name in observing if any(name in one for one in everyones)]
        for name, quantizer in observing.items():
            if name not in idle:
                quantizer.reduce()
    for name, quantizer in observing.items():
        if name in idle:
            quantizer.reset()
        else:
            quantizer.calibrate()
    for layer in quantized_layers(model):
        if layer.input_fold() is not None:
            layer.calibrate_weight()
    if idle:
        raise QuantizationError(
            f"{len(idle)} quantizers saw no data: {', '.join(idle)}; run samples that reach them "
            "or keep their modules FP with an override"
        )


@contextmanager
def recording_sqnr(model: nn.Module) -> Iterator[nn.Module]:
    """Measures the SQNR of every weight (at once) and of every activation that runs inside the ``with`` block.

    Args:
        model: A calibrated model.

    Yields:
        The model; read the results from ``Quantizer.sqnr`` or ``coverage``.

    Raises:
        QuantizationError: A quantizer isn't calibrated.
    """
    check_calibrated(model)
    for layer in quantized_layers(model):
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.record = True
            with torch.no_grad():
                layer.quantized_weight()
            layer.weight_quantizer.record = False
    recorded = [quantizer for _, quantizer in _activations(model)]
    for quantizer in recorded:
        quantizer.record = True
    try:
        yield model
    finally:
        for quantizer in recorded:
            quantizer.record = False


def trainable_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters that training may move, by kind, for one learning rate each.

    Returns:
        ``weight`` and ``bias`` of the quantized layers, ``scale``: scales and zero points of calibrated, unfrozen
        activation quantizers. Parameters with ``requires_grad`` off are left out, shared ones appear once.
    """
    candidates: dict[str, list[nn.Parameter | None]] = {
        "weight": [layer.weight for layer in quantized_layers(model)],
        "bias": [layer.bias for layer in quantized_layers(model)],
        "scale": [parameter for _, q in _activations(model) for parameter in (q.scale, q.zero_point)],
    }
    return {
        kind: list({id(p): p for p in parameters if p is not None and p.requires_grad}.values())
        for kind, parameters in candidates.items()
    }


def quantized_layers(model: nn.Module) -> Iterator[QuantizedLayer]:
    """Every quantized layer, shared ones once."""
    return (module for module in model.modules() if isinstance(module, QuantizedLayer))


def _activations(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    return ((name, q) for name, q in quantizers(model) if not isinstance(q, WeightQuantizer))
