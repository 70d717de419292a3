"""The arithmetic of quantization, as functions without state.

Sources: Krishnamoorthi, *Quantizing deep convolutional networks for efficient inference*, 2018 (affine grid, fake
quantization); Esser et al., *Learned step size quantization*, ICLR 2020, and Bhalgat et al., *LSQ+*, 2020 (gradients of
scale and zero point).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .spec import QuantSpec

# Scale of a tensor that is always zero, where any scale is exact.
EPS = torch.finfo(torch.float32).eps
# Smallest scale: its reciprocal is finite, and engines that flush denormal numbers to zero keep it.
SMALLEST = torch.finfo(torch.float32).tiny
SQNR_LIMIT = 200.0

# Private functions of torch, therefore looked up: where they are missing, ``_learnable`` computes the same formula.
_LEARNABLE_PER_TENSOR = getattr(torch, "_fake_quantize_learnable_per_tensor_affine", None)
_LEARNABLE_PER_CHANNEL = getattr(torch, "_fake_quantize_learnable_per_channel_affine", None)


class _StraightThrough(torch.autograd.Function):
    """The value of ``replacement`` with the gradient of ``source``.

    ``source + (replacement - source).detach()`` has the same gradient, but its value is rounded: a scale of -3 that is
    replaced by 1e-7 would become 0.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, replacement: Tensor) -> Tensor:
        return replacement.view_as(replacement)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """``function.apply(*args)`` with a type, which torch does not declare."""
    y: Tensor = function.apply(*args)
    return y


def affine_parameters(minimum: Tensor, maximum: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The scale and zero point with which the grid of ``spec`` covers a range.

    Asymmetric; the range is first extended to contain zero, so that zeros from padding and ReLU stay exact::

        scale      = (maximum - minimum) / (quant_max - quant_min)
        zero_point = quant_min - round(minimum / scale)

    Symmetric: ``scale = max(|minimum|, |maximum|) / quant_max`` and ``zero_point = 0``.

    Example: [-1, 3] at 2 bits, asymmetric: scale 4 / 3, zero point ``-round(-0.75)`` = 1; the grid is
    {-4/3, 0, 4/3, 8/3}. Symmetric with a narrow range: scale 3, the grid is {-3, 0, 3}.

    Logarithmic grids: ``scale = maximum`` and ``zero_point = 0``.

    Args:
        minimum: Lower ends, shape ``(1,)`` or ``(channels,)``.
        maximum: Upper ends, same shape.
        spec: The grid.

    Returns:
        Scale (float32, positive and normal) and zero point (float32, integers within the grid), both of the shape of
        ``minimum``. The scale of a non-zero range is at least 1.2e-38; it is finite for ranges up to the largest
        float32. A channel that is always zero gets the smallest scale of the others.
    """
    low, high = minimum.float().clamp(max=0), maximum.float().clamp(min=0)
    if spec.logarithmic:
        return positive_scale(high), torch.zeros_like(high)
    if spec.symmetric:
        scale = positive_scale(torch.maximum(-low, high) / spec.quant_max)
        return scale, torch.zeros_like(scale)
    steps = spec.quant_max - spec.quant_min
    scale = (high - low) / steps
    # The difference of two finite numbers may overflow.
    scale = positive_scale(torch.where(torch.isfinite(scale), scale, high / steps - low / steps))
    zero_point = (spec.quant_min - (low / scale).round()).clamp(spec.quant_min, spec.quant_max)
    return scale, zero_point


def positive_scale(scale: Tensor) -> Tensor:
    """Replaces zero scales by the smallest positive one, or by ``EPS`` if all are zero; clamps to ``SMALLEST``.

    Any scale is exact for a channel of zeros. One far from the others would still change the quantized weight behind a
    LayerNorm, which is multiplied by the ratios of the scales (``QuantizedLayer.input_channel_scale``).

    Args:
        scale: Not negative, shape ``(1,)`` or ``(channels,)``.
    """
    nonzero = scale[scale > 0]
    substitute = nonzero.min() if len(nonzero) else EPS
    return torch.where(scale > 0, scale, substitute).clamp(min=SMALLEST)


def usable_scale(scale: Tensor) -> Tensor:
    """The scale that :func:`fake_quantize` uses: ``EPS`` where training has moved a scale to 0 or below."""
    scale = scale.detach().float()
    return torch.where(scale > 0, scale.clamp(min=SMALLEST), EPS)


def migrated_range(minimum: Tensor, maximum: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Ranges per channel whose scales follow the channels' sizes in part (Xiao et al., *SmoothQuant*, ICML 2023).

    ::

        r_c = m_c^strength / (geometric mean of m^strength),       m_c = max(|minimum_c|, |maximum_c|)
        range of channel c = r_c * [min_c(minimum_c / r_c), max_c(maximum_c / r_c)]

    All channels then have the same zero point, and their scales are proportional to r: the input divided by r has one
    scale, and the weight behind it is multiplied by r. Strength 0 gives every channel the range of the tensor. Between
    0 and 1, channels of small values get smaller steps, and their ranges are still wider than their calibration data,
    so larger values at run time are not clipped. The remaining difference in size is moved into the weight.

    Example: channels of [-1, 1] and [-4, 4] at strength 0.5: r = 0.71, 1.41, ranges +-2 and +-4.

    Args:
        minimum: Lower ends, shape ``(channels,)``.
        maximum: Upper ends, same shape.
        strength: 0 to 1.

    Returns:
        Lower and upper ends, same shape. A channel that is always zero is treated like the smallest non-zero one.
    """
    low, high = minimum.float().clamp(max=0), maximum.float().clamp(min=0)
    size = torch.maximum(-low, high)
    if not bool((size > 0).any()):
        return low, high
    log = torch.where(size > 0, size, size[size > 0].min()).log() * strength
    ratio = (log - log.mean()).exp()
    return (low / ratio).min() * ratio, (high / ratio).max() * ratio


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Rounds ``x`` to the grid and back, with straight-through gradients.

    ::

        q = clamp(round(x / scale) + z, quant_min, quant_max),   z = clamp(round(zero_point), quant_min, quant_max)
        y = (q - z) * scale

    ``round`` goes to the even neighbour at ties and counts as the identity in the backward pass, so with
    ``inside = quant_min <= round(x / scale) + z <= quant_max``::

        dy/dx          = 1              inside, 0          outside
        dy/dscale      = q - z - x / scale inside, q - z      outside
        dy/dzero_point = 0              inside, -scale     outside

    The zero point is a float that is rounded here: its effect changes in whole steps, and its gradient is that of the
    unrounded value. A learned scale that is not positive is replaced by ``finfo(float32).eps`` and still receives its
    gradient, so training can make it positive again.

    Example: ``x = 1.2``, scale 0.5, zero point 1, 2 bits asymmetric: ``q = clamp(2 + 1, 0, 3) = 3``, ``y = 1.0``,
    ``dy/dscale = 2 - 2.4 = -0.4``. For ``x = 9``: ``q = 3``, ``y = 1.0``, ``dy/dx = 0``, ``dy/dscale = 2``,
    ``dy/dzero_point = -0.5``.

    Computed by torch's kernels: the fixed ones when neither scale nor zero point needs a gradient (on CPUs the same
    formula in vectorised operations, see :func:`_on_cpu`), the learnable ones otherwise. Fixed and learnable kernels
    multiply and round in a different order, so results for values on a tie may differ by one step.

    Args:
        x: Any shape, any floating type; computed in float32.
        scale: Shape ``(1,)`` per tensor, ``(x.shape[spec.axis],)`` per channel.
        zero_point: Shape of ``scale``.
        spec: The grid.

    Returns:
        Tensor of the shape and type of ``x``.
    """
    if spec.logarithmic:
        return log_fake_quantize(x, scale, spec)
    learned = torch.is_grad_enabled() and (scale.requires_grad or zero_point.requires_grad)
    lowest, highest = spec.quant_min, spec.quant_max
    positive = usable_scale(scale)
    rounded = zero_point.detach().float().round().clamp(lowest, highest)
    axis = spec.axis % x.dim() if spec.per_channel else None
    if learned:
        step, zero = _apply(_StraightThrough, scale, positive), _apply(_StraightThrough, zero_point, rounded)
        y = _learnable(x.float(), step, zero, axis, lowest, highest)
    elif x.device.type == "cpu":
        y = _on_cpu(x.float(), positive, rounded, axis, spec)
    elif axis is not None:
        y = torch.fake_quantize_per_channel_affine(x.float(), positive, rounded.int(), axis, lowest, highest)
    else:
        y = torch.fake_quantize_per_tensor_affine(x.float(), positive, rounded.int(), lowest, highest)
    return y.to(x.dtype)


def _on_cpu(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, spec: QuantSpec) -> Tensor:
    """Vectorised CPU path of ``fake_quantize`` for a fixed scale and zero point: torch's CPU kernels are scalar.

    For finite values the result equals that of torch's kernels bit by bit, several times faster::

        y = clamp(round(x * (1 / scale)), quant_min - z, quant_max - z) * scale
    """
    lowest: Any = spec.quant_min - zero_point
    highest: Any = spec.quant_max - zero_point
    if axis is not None:
        shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
        scale, lowest, highest = scale.view(shape), lowest.view(shape), highest.view(shape)
    if spec.symmetric or axis is None:  # one pair of bounds; comparing with numbers is faster than with tensors
        lowest, highest = lowest.flatten()[0].item(), highest.flatten()[0].item()
    if torch.is_grad_enabled() and x.requires_grad:
        return _apply(_RoundToGrid, x, scale, lowest, highest)
    return (x * scale.reciprocal()).round_().clamp_(lowest, highest).mul_(scale)


class _RoundToGrid(torch.autograd.Function):
    """:func:`_on_cpu` with the straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: Any, highest: Any) -> Tensor:
        steps = (x * scale.reciprocal()).round_()
        ctx.save_for_backward((steps >= lowest) & (steps <= highest))
        return steps.clamp_(lowest, highest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


def log_fake_quantize(x: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Rounds ``x`` to a logarithmic grid and back, for softmax outputs (Lin et al., *FQ-ViT*, IJCAI 2022).

    ::

        q = clamp(round(k log2(x / scale)), quant_min, 0)
        y = scale * 2^(q / k),   0 where q = quant_min

    with k = ``QuantSpec.steps_per_octave``. FQ-ViT has k = 1 and a zero in addition to its 2^b exponents; here zero
    replaces the lowest exponent, so that b bits encode all values. The gradient is 1 where ``quant_min < q`` and 0
    elsewhere. The scale has no gradient: under the straight-through estimator ``dy/dscale`` is zero.

    Example: ``x = 0.3``, scale 1, 2 bits: log2(0.3) = -1.74, ``q = -2``, ``y = 0.25``; for ``x = 0.1``, -3.3 is
    clamped to -3, which encodes 0.

    Args:
        x: Any shape, not negative, any floating type.
        scale: Shape ``(1,)``.
        spec: The grid.

    Returns:
        Tensor of the shape and type of ``x``.
    """
    step, per_octave = scale.detach().float(), spec.steps_per_octave
    # Clamped before the logarithm, which is not finite at 0.
    ratio = (x.detach().float() / step).clamp(min=2.0 ** ((spec.quant_min - 1) / per_octave))
    q = ratio.log2_().mul_(per_octave).round_().clamp_(spec.quant_min, 0)
    quantized = torch.where(q > spec.quant_min, step * (q / per_octave).exp2_(), 0.0)
    return _apply(_StraightThroughNonzero, x, quantized.to(x.dtype))


class _StraightThroughNonzero(torch.autograd.Function):
    """The value of ``quantized`` with the gradient of ``x`` where ``quantized`` is not zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        ctx.save_for_backward(quantized)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (quantized,) = ctx.saved_tensors
        return grads[0] * (quantized > 0), None


def _learnable(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, lowest: int, highest: int) -> Tensor:
    """``fake_quantize`` with gradients to a positive scale and an integral zero point."""
    y: Tensor
    # The kernels read scale and zero point on the host: one synchronisation per call on a GPU.
    if axis is None and _LEARNABLE_PER_TENSOR is not None:
        y = _LEARNABLE_PER_TENSOR(x, scale, zero_point, lowest, highest, 1.0)
        return y
    if axis is not None and _LEARNABLE_PER_CHANNEL is not None:
        y = _LEARNABLE_PER_CHANNEL(x, scale, zero_point, axis, lowest, highest, 1.0)
        return y
    if axis is not None:
        shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
        scale, zero_point = scale.view(shape), zero_point.view(shape)
    steps = x / scale
    raw = _apply(_StraightThrough, steps, steps.detach().round()) + zero_point
    # Not clamp alone: its gradient at the bounds is 0 or 1, depending on torch's version.
    q = torch.where((raw >= lowest) & (raw <= highest), raw, raw.detach().clamp(lowest, highest))
    return (q - zero_point) * scale


def powers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The energies ``sum x^2`` of the signal and ``sum (x - y)^2`` of the noise, two float64 scalars.

    Energies of several batches can be added.
    """
    x, y = x.detach().float(), y.detach().float()
    unit = power_of_two(x)
    signal, noise = ((one / unit).square().sum(dtype=torch.float64) for one in (x, x - y))
    return signal * unit.double().square(), noise * unit.double().square()


def power_of_two(x: Tensor, dim: int | None = None) -> Tensor:
    """The largest power of two that is not above the largest magnitude in ``x``.

    Squares of ``x`` divided by it neither overflow nor underflow, and the division is exact. The exponent is limited to
    -126 to 126, so that the result and its reciprocal are normal float32 numbers.

    Example: 3e-30 gives 2^-99 = 1.58e-30.

    Args:
        x: float32, finite.
        dim: The dimension to take the largest magnitude over, kept with length 1; None for all of ``x``.

    Returns:
        float32: a scalar, or the shape of ``x`` with length 1 at ``dim``.
    """
    largest = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    exponent = torch.frexp(largest).exponent - 1
    return torch.ldexp(torch.ones_like(largest), exponent.clamp(-126, 126))


def decibels(signal: Tensor, noise: Tensor) -> Tensor:
    """``10 log10(signal / noise)``, clamped to +-200 dB so that the value of an exact copy is finite (for JSON)."""
    ratio = torch.where(noise > 0, signal / noise, torch.inf)
    return (10 * torch.log10(ratio)).clamp(-SQNR_LIMIT, SQNR_LIMIT)


def sqnr(x: Tensor, y: Tensor) -> float:
    """Signal-to-quantization-noise ratio in dB: ``10 log10(sum x^2 / sum (x - y)^2)``.

    About 6 dB per bit.

    Example: ``x = [3, 4]``, ``y = [3, 4.5]``: 10 log10(25 / 0.25) = 20 dB.

    Args:
        x: The tensor before quantization.
        y: The quantized tensor.

    Returns:
        Decibels, clamped to +-200; 200 for an exact copy.
    """
    return float(decibels(*powers(x, y)))
