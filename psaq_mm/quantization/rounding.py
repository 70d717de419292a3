"""Rounding of weights that spares a layer's output instead of each weight: GPTQ.

Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import QuantizationError
from .functional import power_of_two
from .layers import QuantLinear

BLOCK = 128


def gptq(weight: Tensor, scale: Tensor, moment: Tensor, quant_max: int, damping: float = 0.01) -> Tensor:
    """The integers whose output is near that of the weight on given inputs.

    Greedy minimisation of ``|W X - s Q X|^2``. With ``H = X X^T`` and ``U`` the upper Cholesky factor of
    ``(H + damping mean(diag H) I)^-1``, input channels are rounded one after the other, those with the largest second
    moment first, and what rounding one of them costs is made good by those that are still free::

        q_j        = clamp(round(w_j / s), -quant_max, quant_max)
        W_{:, k} -= (w_j - s q_j) U_jk / U_jj                      for all k behind j

    Greed promises nothing: a row for which the nearest integers lose less (at 2 or 3 bits, or with few channels, some
    do) keeps those (ours).

    Example: ``W = [0.4, 0.4]``, ``s = 1`` and inputs whose two channels are always equal: rounding to the nearest gives
    ``[0, 0]`` and loses 0.8 of the sum, GPTQ gives ``[0, 1]`` and errs by 0.2.

    Args:
        weight: ``(out, in)``.
        scale: Positive, ``(out,)`` or ``(1,)``.
        moment: Sum over inputs of their outer products, ``(in, in)``.
        quant_max: The largest integer; the grid is symmetric.
        damping: Share of the mean second moment that is added to each, so that directions that were never seen cost
            something too.

    Returns:
        Integers, ``(out, in)``, in the type of ``weight``.

    Raises:
        QuantizationError: The moment is not finite or of another size.
    """
    if moment.shape != (weight.shape[1], weight.shape[1]) or not bool(torch.isfinite(moment).all()):
        raise QuantizationError(f"gptq needs a finite moment of {weight.shape[1]} input channels: check the inputs")
    moment = h = moment.double()
    diagonal = h.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    # A layer that only ever saw zeros has nothing to spare: its weights are rounded to the nearest.
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
        # What lies behind the block is made good once for all of it.
        w[:, end:] -= errors @ u[start:end, end:]
    q, nearest = q[:, order.argsort()], (original / step).round().clamp(-quant_max, quant_max)

    def lost(integers: Tensor) -> Tensor:
        error = integers * step - original
        return ((error @ moment) * error).sum(1, keepdim=True)

    return torch.where(lost(q) <= lost(nearest), q, nearest).to(weight.dtype)


def quantized_linears(model: nn.Module) -> list[QuantLinear]:
    """The layers that can be rounded so, in the model's order."""
    return [m for m in model.modules() if isinstance(m, QuantLinear) and m.weight_quantizer is not None]


@contextmanager
def recording_moments(model: nn.Module) -> Iterator[dict[QuantLinear, Tensor]]:
    """Sums the second moments of what every quantized Linear multiplies its weight with.

    Args:
        model: A calibrated model.

    Yields:
        The moments by layer, ``(in, in)`` each in float64; filled by what runs inside the ``with`` block.
    """
    moments: dict[QuantLinear, Tensor] = {}

    @torch.no_grad()
    def add(layer: QuantLinear, args: tuple[Tensor, ...]) -> None:
        x = args[0] if layer.input_quantizer is None else layer.input_quantizer(args[0])
        fold = layer.input_fold()
        rows = (x if fold is None else x / fold).reshape(-1, x.shape[-1])
        # Summed in float64 over the batches, multiplied in float32: the products are as exact as the inputs.
        unit = power_of_two(rows)
        rows = rows / unit
        product = (rows.T @ rows).double() * unit.double().square()
        moments[layer] = moments[layer] + product if layer in moments else product

    handles = [layer.register_forward_pre_hook(add) for layer in quantized_linears(model)]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def round_weights(moments: dict[QuantLinear, Tensor], damping: float = 0.01) -> None:
    """Puts the weights of calibrated layers on their grids, as :func:`gptq` rounds them; scales stay.

    On the grid and not just across the boundary to another integer: there the first step of training would turn most of
    them back.

    Args:
        moments: What :func:`recording_moments` yields.
        damping: See :func:`gptq`.

    Raises:
        QuantizationError: A layer's quantizer isn't calibrated, or a moment isn't finite.
    """
    for layer, moment in moments.items():
        quantizer = layer.weight_quantizer
        if quantizer is None or not quantizer.enabled:
            continue
        layer.refresh()
        fold = layer.input_fold()
        weight = layer.weight if fold is None else layer.weight * fold
        scale, limit = quantizer.scale.detach(), quantizer.spec.quant_max
        rounded = gptq(weight, scale, moment, limit, damping) * scale.view(-1, 1)
        layer.weight.copy_(rounded if fold is None else rounded / fold)
        quantizer.keep_scale(rounded)
