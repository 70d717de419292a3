"""Rounding method ``'gptq'``: minimises the error of the layer's output instead of the error of each weight.

Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import QuantizationError
from ..functional import power_of_two
from ..layers import QuantLinear
from .base import AllReduce, Rounding, register_rounding

BLOCK = 128


@register_rounding("gptq")
class GPTQRounding(Rounding):
    """Rounds the weight of each quantized Linear with :func:`gptq`, on the inputs that pass inside ``collect``.

    Other layers, and layers that no input reached, keep rounding to the nearest integer.

    Attributes:
        hessians: The collected Hessian of each layer, ``(in, in)`` in float64.

    Args:
        damping: Positive, see :func:`gptq`.
        shrinkage: In [0, 1]. The Hessian H becomes ``(1 - shrinkage) H + shrinkage diag(H)``: the products of different
            channels count less, as in a shrinkage estimator of a covariance. In generated images, channels vary
            together in another way than in photographs, so the recipes take 0.1. With 1, weights are rounded to the
            nearest integer.

    Raises:
        QuantizationError: ``damping`` is not positive, or ``shrinkage`` is outside its range.
    """

    needs_inputs = True

    def __init__(self, damping: float = 0.01, shrinkage: float = 0.0) -> None:
        if not damping > 0:
            raise QuantizationError(f"damping {damping} of gptq must be positive: give for example 0.01")
        if not 0 <= shrinkage <= 1:
            raise QuantizationError(f"shrinkage {shrinkage} of gptq is not a share: give 0 to 1")
        self.damping, self.shrinkage = damping, shrinkage
        self.hessians: dict[QuantLinear, Tensor] = {}
        self._layers: list[QuantLinear] = []

    @contextmanager
    def collect(self, model: nn.Module) -> Iterator[nn.Module]:
        """Collects the Hessian of every quantized Linear, see :func:`collect_hessians`."""
        self._layers = quantized_linears(model)
        with collect_hessians(model) as self.hessians:
            yield model

    def all_reduce(self, all_reduce: AllReduce) -> None:
        """Sums the Hessians over all processes."""
        # All layers, in the model's order: inputs may have reached a layer in some of the processes only.
        for layer in self._layers:
            zeros = layer.weight.new_zeros([layer.in_features] * 2, dtype=torch.float64)
            all_reduce(self.hessians.setdefault(layer, zeros))

    def apply(self, model: nn.Module) -> None:
        """Rounds the weights, see :func:`round_weights`, and releases the Hessians, which may need much memory."""
        round_weights(self.hessians, self.damping, self.shrinkage)
        self.hessians, self._layers = {}, []


def gptq(weight: Tensor, scale: Tensor, hessian: Tensor, quant_max: int, damping: float = 0.01) -> Tensor:
    """The integers Q that make ``|W X - s Q X|^2`` small for inputs X with a given Hessian ``H = X X^T``.

    With ``U`` the upper Cholesky factor of ``(H + damping mean(diag H) I)^-1``, input channels are rounded one after
    the other in the order of decreasing ``H_jj``. The error of each rounded channel is compensated by the channels that
    are not rounded yet::

        q_j        = clamp(round(w_j / s), -quant_max, quant_max)
        W_{:, k} -= (w_j - s q_j) U_jk / U_jj                      for all k after j

    The algorithm is greedy, so its error may be larger than that of the nearest integers (for some rows at 2 or 3 bits,
    or with few channels). Such rows keep the nearest integers (ours).

    Example: ``W = [0.4, 0.4]``, ``s = 1``, inputs whose two channels are always equal to x: the output is 0.8 x. The
    nearest integers ``[0, 0]`` have an error of 0.8 x, the integers ``[0, 1]`` of GPTQ have an error of 0.2 x.

    Args:
        weight: ``(out, in)``.
        scale: Positive, ``(out,)`` or ``(1,)``.
        hessian: Sum over the inputs x of ``x x^T``, ``(in, in)``.
        quant_max: The largest integer; the grid is symmetric.
        damping: Share of the mean diagonal element that is added to the diagonal, so that errors in directions that no
            input had are not free.

    Returns:
        Integers, ``(out, in)``, in the type of ``weight``.

    Raises:
        QuantizationError: The Hessian is not finite or has another size.
    """
    if hessian.shape != (weight.shape[1], weight.shape[1]) or not bool(torch.isfinite(hessian).all()):
        raise QuantizationError(f"gptq needs a finite Hessian of {weight.shape[1]} input channels: check the inputs")
    hessian = h = hessian.double()
    diagonal = h.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    # If all inputs were zero the mean is 0: any positive value then gives the nearest integers.
    added = damping * diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny / damping)
    h = h[order][:, order] + added * torch.eye(len(h), dtype=h.dtype, device=h.device)
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    original, step = weight.detach().double(), scale.detach().double().view(-1, 1)
    w = original[:, order]
    q = torch.empty_like(w)
    for start in range(0, w.shape[1], BLOCK):
        end = min(start + BLOCK, w.shape[1])
        errors = torch.empty_like(w[:, start:end])
        for j in range(start, end):
            q[:, j] = (w[:, j : j + 1] / step).round().clamp(-quant_max, quant_max)[:, 0]
            error = (w[:, j] - q[:, j] * step[:, 0]) / u[j, j]
            w[:, j:end] -= error[:, None] * u[j, j:end]
            errors[:, j - start] = error
        # Channels after the block are updated once for the whole block.
        w[:, end:] -= errors @ u[start:end, end:]
    q, nearest = q[:, order.argsort()], (original / step).round().clamp(-quant_max, quant_max)

    def output_error(integers: Tensor) -> Tensor:
        error = integers * step - original
        return ((error @ hessian) * error).sum(1, keepdim=True)

    return torch.where(output_error(q) <= output_error(nearest), q, nearest).to(weight.dtype)


def quantized_linears(model: nn.Module) -> list[QuantLinear]:
    """The Linear layers of a model whose weights are quantized, in the model's order."""
    return [m for m in model.modules() if isinstance(m, QuantLinear) and m.weight_quantizer is not None]


@contextmanager
def collect_hessians(model: nn.Module) -> Iterator[dict[QuantLinear, Tensor]]:
    """Sums ``x x^T`` over the inputs of the quantized weight of every quantized Linear.

    ``x`` is the layer's ``folded_input``.

    Args:
        model: A calibrated model.

    Yields:
        The Hessians by layer, ``(in, in)`` in float64, of the batches that pass inside the ``with`` block.
    """
    hessians: dict[QuantLinear, Tensor] = {}

    @torch.no_grad()
    def add(layer: QuantLinear, args: tuple[Tensor, ...]) -> None:
        rows = layer.folded_input(args[0]).flatten(0, -2)  # (tokens of the batch, in)
        # Multiplied in float32, since the inputs are no more exact; summed over the batches in float64.
        unit = power_of_two(rows)
        rows = rows / unit
        product = (rows.T @ rows).double() * unit.double().square()
        hessians[layer] = hessians[layer] + product if layer in hessians else product

    handles = [layer.register_forward_pre_hook(add) for layer in quantized_linears(model)]
    try:
        yield hessians
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def round_weights(hessians: Mapping[QuantLinear, Tensor], damping: float = 0.01, shrinkage: float = 0.0) -> None:
    """Puts the weights of calibrated layers on their grids with :func:`gptq`; the scales stay the same.

    Each weight becomes the value of its integer. A value just beyond the boundary to that integer would quantize alike,
    but the first training step would move most of these weights back.

    Args:
        hessians: As yielded by :func:`collect_hessians`.
        damping: See :func:`gptq`.
        shrinkage: See :class:`GPTQRounding`.

    Raises:
        QuantizationError: A layer's quantizer isn't calibrated, or a Hessian isn't finite.
    """
    for layer, hessian in hessians.items():
        quantizer = layer.weight_quantizer
        if quantizer is None or not quantizer.enabled:
            continue
        layer.refresh()
        scale, limit = quantizer.scale.detach(), quantizer.spec.quant_max
        hessian = (1 - shrinkage) * hessian + shrinkage * torch.diag(hessian.diagonal())
        rounded = gptq(layer.folded_weight(), scale, hessian, limit, damping) * scale.view(-1, 1)
        layer.weight.copy_(layer.unfolded_weight(rounded))
        quantizer.keep_scale(rounded)
