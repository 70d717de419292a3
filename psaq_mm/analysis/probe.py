"""A quantized network in which any selection of its tensors is quantized, and all others are in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..quantization import QuantizedLayer, freeze, quantizers

SUFFIX = "_quantizer"


@dataclass(frozen=True)
class ProbedTensor:
    """A tensor with a quantizer.

    Attributes:
        layer: Name of the layer in the network.
        tensor: ``'weight'``, ``'input'``, for the operands of an attention product ``'left'`` and ``'right'``, or
            another name that the layer gives its quantizer.
        bits: Bits of the quantizer.
        parameters: Number of values of a weight; 0 for activations.
    """

    layer: str
    tensor: str
    bits: int
    parameters: int

    @property
    def key(self) -> tuple[str, str]:
        """Layer and tensor, which are the same at every bit width."""
        return self.layer, self.tensor


def probed_tensors(network: nn.Module) -> tuple[ProbedTensor, ...]:
    """The tensors with a quantizer, in the order of the network's modules."""
    tensors = []
    for path, quantizer in quantizers(network):
        layer, tensor = key_of(path)
        parameters = network.get_parameter(f"{layer}.weight").numel() if tensor == "weight" else 0
        tensors.append(ProbedTensor(layer, tensor, quantizer.spec.bits, parameters))
    return tuple(tensors)


def layer_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weight of each quantized layer, by the layer's name."""
    return {
        name: module.weight.detach().clone()
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLayer)
    }


def key_of(path: str) -> tuple[str, str]:
    """Layer and tensor of a quantizer: ``'blocks.0.fc1.input_quantizer'`` is ``('blocks.0.fc1', 'input')``."""
    layer, _, role = path.rpartition(".")
    return layer, role.removesuffix(SUFFIX)


class Probe:
    """Turns the quantizers of a calibrated network on and off one by one.

    Calibration may change weights (GPTQ), so a weight that is turned off is the one from before calibration.

    Args:
        network: A quantized network. It is changed in place and stays in floating point outside :meth:`only`.
        calibrate: Calibrates the network; None if it is calibrated already.
        float_weights: :func:`layer_weights` from before the calibration; default: the network's now.
    """

    def __init__(
        self,
        network: nn.Module,
        calibrate: Callable[[], object] | None,
        float_weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.network = network
        self.layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
        self.quantizers = {key_of(path): quantizer for path, quantizer in quantizers(network)}
        self.float_weights = float_weights or layer_weights(network)
        if calibrate is not None:
            calibrate()
        freeze(network)
        self.rounded_weights = layer_weights(network)
        self.turn_off()

    @contextmanager
    def only(self, keys: Iterable[tuple[str, str]]) -> Iterator[nn.Module]:
        """The network with the quantizers of these tensors on and all others off.

        Args:
            keys: :attr:`ProbedTensor.key` of the tensors.

        Yields:
            The network.

        Raises:
            KeyError: A tensor has no quantizer.
        """
        try:
            for key in keys:
                self.quantizers[key].enabled = True
                if key[1] == "weight":
                    self.set_weight(key[0], self.rounded_weights[key[0]])
            yield self.network
        finally:
            self.turn_off()

    @torch.no_grad()
    def weight_error(self, layer: str) -> Tensor:
        """The difference of a layer's quantized weight from the one in floating point."""
        with self.only([(layer, "weight")]):
            quantized = self.layers[layer].quantized_weight().clone()
        return quantized - self.float_weights[layer]

    def turn_off(self) -> None:
        """Turn all quantizers off."""
        for quantizer in self.quantizers.values():
            quantizer.enabled = False
        for name, weight in self.float_weights.items():
            self.set_weight(name, weight)

    def set_weight(self, layer: str, weight: Tensor) -> None:
        """Replace the values of a layer's weight."""
        self.layers[layer].weight.data = weight
