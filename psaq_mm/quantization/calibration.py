"""Operations on all quantizers of a model: calibrate, freeze, measure the SQNR, collect trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from ..errors import QuantizationError
from .layers import QuantizedLayer
from .quantizer import Quantizer, State
from .weight_quantizer import WeightQuantizer


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Name and module of every quantizer; shared quantizers occur once."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantizer))


def freeze(model: nn.Module) -> None:
    """Fixes all scales; those of weights are recomputed first.

    Raises:
        QuantizationError: A quantizer isn't calibrated.
    """
    check_calibrated(model)
    for layer in quantized_layers(model):
        layer.refresh()
    for _, quantizer in quantizers(model):
        quantizer.freeze()


def unfreeze(model: nn.Module) -> None:
    """Makes activation scales learnable again; weight scales are again recomputed from the weights.

    Raises:
        QuantizationError: A quantizer isn't calibrated.
    """
    check_calibrated(model)
    for _, quantizer in quantizers(model):
        quantizer.unfreeze()


def check_calibrated(model: nn.Module) -> None:
    """Checks that every quantizer is calibrated.

    Raises:
        QuantizationError: Some aren't; the message has their number, the first name and what to do.
    """
    names = [name for name, quantizer in quantizers(model) if quantizer.state not in (State.CALIBRATED, State.FROZEN)]
    if names:
        raise QuantizationError(
            f"{len(names)} quantizers are not calibrated, the first is {names[0]!r}: "
            "calibrate the model or load a calibrated checkpoint"
        )


@contextmanager
def calibrating(model: nn.Module, across_processes: bool = False) -> Iterator[nn.Module]:
    """Calibrates a model on the batches that pass through it inside the ``with`` block.

    Weights are calibrated on entry; activations are observed with quantized weights and unquantized activations.
    Disabled quantizers are not changed. If the block raises, activations are left uncalibrated.

    Example::

        with calibrating(model), torch.no_grad():
            for batch in samples:
                model(batch)

    Args:
        model: A model with quantizers; an earlier calibration is discarded.
        across_processes: Whether all processes of ``torch.distributed`` calibrate the same model, each on its own
            batches. Every process then has the ranges of all batches.

    Yields:
        The model.

    Raises:
        QuantizationError: Quantizers saw no data (the message names all of them), or a weight isn't finite.
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
        # Either all processes merge a quantizer or none does; otherwise the collective call would block forever.
        gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(gathered, idle)
        idle = [name for name in observing if any(name in one for one in gathered)]
        for name, quantizer in observing.items():
            if name not in idle:
                quantizer.all_reduce()
    for name, quantizer in observing.items():
        if name in idle:
            quantizer.reset()
        else:
            quantizer.calibrate()
    # The weight of such a layer is quantized times the scales of its input, which are known only now.
    for layer in quantized_layers(model):
        if layer.input_channel_scale() is not None:
            layer.calibrate_weight()
    if idle:
        raise QuantizationError(
            f"{len(idle)} quantizers saw no data: {', '.join(idle)}; run samples that reach them "
            "or keep their modules FP with an override"
        )


@contextmanager
def recording_sqnr(model: nn.Module) -> Iterator[nn.Module]:
    """Measures the SQNR of every weight (on entry) and of every activation inside the ``with`` block.

    Args:
        model: A calibrated model.

    Yields:
        The model; ``Quantizer.sqnr`` and ``coverage`` give the results.

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
    """The trainable parameters of a quantized model by kind, so that each kind can have its own learning rate.

    Returns:
        ``weight`` and ``bias``: those of the quantized layers. ``scale``: scales and zero points of the activation
        quantizers that are calibrated and not frozen. Parameters that require no gradient are left out, shared ones
        occur once.
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
    """Every quantized layer; shared layers occur once."""
    return (module for module in model.modules() if isinstance(module, QuantizedLayer))


def _activations(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    return ((name, q) for name, q in quantizers(model) if not isinstance(q, WeightQuantizer))
