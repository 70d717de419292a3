"""Conversion of a float model to a quantized one. Modules are replaced in place; the model is not traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..utils.class_table import ClassTable, full_name
from .layers import QuantConv2d, QuantConvTranspose2d, QuantizedLayer, QuantLinear
from .matmul import QuantMatMul
from .policy import QuantPolicy
from .quantizer import Quantizer

Factory = Callable[[Any, str, QuantPolicy], nn.Module]
_F = TypeVar("_F", bound=Factory)

FACTORIES: ClassTable[Factory] = ClassTable()
_MARK = "_quantized_by_psaq"

# Modules that use the weights of their children without calling them: quantizers in these children would never run.
# They stay FP unless a function is registered for their class.
OPAQUE = (nn.MultiheadAttention,)


def register_quantized(*float_classes: type[nn.Module] | str) -> Callable[[_F], _F]:
    """Registers a function that quantizes modules of these classes; a later registration replaces an earlier one.

    A class may be given by its full name, so that its library need not be installed.

    The decorated function gets the float module, its name in the model and the policy, and returns the quantized
    module. It is called only if ``policy.specs(name)`` is not None. The function for a module with children must call
    ``convert_child`` on the children it keeps: conversion doesn't descend into its result.

    Example, for a subclass of Linear whose own ``forward`` need not be kept::

        register_quantized(mmcv.cnn.bricks.wrappers.Linear)(quantize_linear)

    Args:
        *float_classes: Classes, or full names as given by :func:`full_name`.
    """

    def register(factory: _F) -> _F:
        FACTORIES.add((one if isinstance(one, str) else full_name(one) for one in float_classes), factory)
        return factory

    return register


@register_quantized(nn.Linear)
def quantize_linear(module: nn.Linear, name: str, policy: QuantPolicy) -> nn.Module:
    """Converts a Linear; weight and input are quantized."""
    specs = policy.specs(name)
    return module if specs is None else QuantLinear.from_module(module, specs.weight, specs.rotated(), name=name)


@register_quantized(nn.Conv2d)
def quantize_conv2d(module: nn.Conv2d, name: str, policy: QuantPolicy) -> nn.Module:
    """Converts a Conv2d; weight and input are quantized."""
    specs = policy.specs(name)
    return module if specs is None else QuantConv2d.from_module(module, specs.weight, specs.activation, name=name)


@register_quantized(nn.ConvTranspose2d)
def quantize_conv_transpose2d(module: nn.ConvTranspose2d, name: str, policy: QuantPolicy) -> nn.Module:
    """Converts a ConvTranspose2d; weight and input are quantized. One with several groups stays FP."""
    specs = policy.specs(name)
    if specs is None:
        return module
    if module.groups > 1:
        noted: Any = module
        noted.fp_notes = dict.fromkeys(("weight", "input"), "transposed convolutions of several groups stay FP")
        return module
    return QuantConvTranspose2d.from_module(module, specs.weight, specs.activation, name=name)


def factory_of(module: nn.Module) -> Factory | None:
    """The function registered for the module's class, or for a base class whose ``forward`` it inherits.

    A subclass that overrides ``forward`` computes something different, so it needs its own registration.

    Returns:
        The function, None if there is none.
    """
    return FACTORIES.of(type(module))


def is_quantized(module: nn.Module) -> bool:
    """Whether the module is the result of a conversion, which then does not descend into it."""
    return isinstance(module, (QuantizedLayer, QuantMatMul, Quantizer)) or _MARK in module.__dict__


def convert_child(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Converts a module and everything below it.

    If the policy keeps a registered module FP, its descendants stay FP too; in other containers the policy decides for
    each descendant separately. A module that occurs in several places is converted once and stays shared.

    Args:
        module: Any module, changed in place where it is a container.
        name: Its name in the model.
        policy: Bits, observers and exceptions.

    Returns:
        The module itself, or the quantized module that replaces it.
    """
    return _convert(module, name, policy, {})


def quantize_model(model: nn.Module, policy: QuantPolicy, prefix: str = "") -> nn.Module:
    """Quantizes a model in place, without calibrating it.

    Args:
        model: A float model, e.g. ``detector.backbone``. Parts that are already quantized are not changed.
        policy: Bits, observers and exceptions.
        prefix: Name of ``model`` in the model that the policy's patterns refer to, e.g. ``'backbone'``.

    Returns:
        The model itself; if its own class is registered, the quantized module that replaces it.

    Raises:
        QuantizationError: An override of the policy matches no module.
    """
    before = _names(model, prefix)
    converted = convert_child(model, prefix, policy)
    # The converted model as well: adapters add modules (attention products) that an override may name.
    policy.check_patterns([*before, *_names(converted, prefix)])
    return converted


def _convert(module: nn.Module, name: str, policy: QuantPolicy, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    factory = factory_of(module)
    if is_quantized(module) or isinstance(module, OPAQUE) and factory is None:
        return module
    result = module
    if factory is None:
        # Not named_children(): it omits the second occurrence of a shared module, which would then stay float.
        for child_name, child in module._modules.items():
            if child is not None:
                module._modules[child_name] = _convert(child, join(name, child_name), policy, done)
    elif policy.specs(name) is not None:
        result = factory(module, name, policy)
        result.__dict__[_MARK] = True
    done[module] = result
    return result


def join(prefix: str, name: str) -> str:
    """``'prefix.name'``, without the dot if one of them is empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _names(model: nn.Module, prefix: str) -> list[str]:
    return [join(prefix, name) for name, _ in model.named_modules()]
