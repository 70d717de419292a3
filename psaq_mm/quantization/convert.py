"""From a float model to a quantized one: modules are swapped in place, nothing is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .layers import QuantConv2d, QuantizedLayer, QuantLinear, QuantMatMul
from .policy import QuantPolicy
from .quantizer import Quantizer

Factory = Callable[[Any, str, QuantPolicy], nn.Module]
_F = TypeVar("_F", bound=Factory)

_FACTORIES: dict[type[nn.Module] | str, Factory] = {}
_MARK = "_quantized_by_psaq"

# Calls its projections functionally: quantizers put into them would never run.
OPAQUE = (nn.MultiheadAttention,)


def register_quantized(*float_classes: type[nn.Module] | str) -> Callable[[_F], _F]:
    """Registers how modules of these classes are quantized; a later registration replaces an earlier one.

    A class may be given by its full name, so that its library need not be imported (or even installed) until a model
    brings it. Where a class is registered both ways, the class itself goes before its name.

    The decorated factory gets the float module, its name in the model and the policy, whose ``specs(name)`` is not None
    for it, and returns the quantized module. A factory of a compound module is responsible for the children it keeps:
    it calls ``convert_child`` on them, since conversion doesn't descend into its result.

    Example, for a subclass of Linear with a forward of its own that may be ignored::

        register_quantized(mmcv.cnn.bricks.wrappers.Linear)(quantize_linear)
    """

    def register(factory: _F) -> _F:
        _FACTORIES.update(dict.fromkeys(float_classes, factory))
        return factory

    return register


@register_quantized(nn.Linear)
def quantize_linear(module: nn.Linear, name: str, policy: QuantPolicy) -> nn.Module:
    """The factory of Linear: weight and input quantized."""
    specs = policy.specs(name)
    return module if specs is None else QuantLinear.from_module(module, specs.weight, specs.activation, name=name)


@register_quantized(nn.Conv2d)
def quantize_conv2d(module: nn.Conv2d, name: str, policy: QuantPolicy) -> nn.Module:
    """The factory of Conv2d: weight and input quantized."""
    specs = policy.specs(name)
    return module if specs is None else QuantConv2d.from_module(module, specs.weight, specs.activation, name=name)


def factory_of(module: nn.Module) -> Factory | None:
    """The factory registered for the module's class, or for a base class whose ``forward`` it inherits.

    A subclass that overrides ``forward`` computes something else than its base, so it needs its own registration.
    """
    cls = type(module)
    for base in cls.__mro__:
        factory = _FACTORIES.get(base) or _FACTORIES.get(full_name(base))
        if factory is not None and getattr(base, "forward", None) is cls.forward:
            return factory
    return None


def full_name(cls: type) -> str:
    """Module and name, as ``register_quantized`` takes them: ``'torch.nn.modules.linear.Linear'``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_quantized(module: nn.Module) -> bool:
    """Whether the module came out of a conversion (its children are then its own business)."""
    return isinstance(module, (QuantizedLayer, QuantMatMul, Quantizer)) or _MARK in module.__dict__


def convert_child(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Converts a module and everything below it.

    A module that the policy keeps FP stays with all it contains if it is registered; in any other container each
    descendant is asked for itself. A module that stands in several places is converted once and stays shared.

    Args:
        module: Any module, changed in place where it is a container.
        name: Its name in the model.
        policy: What to make of it.

    Returns:
        The module that takes its place: itself, or its quantized sibling.
    """
    return _convert(module, name, policy, {})


def quantize_model(model: nn.Module, policy: QuantPolicy, prefix: str = "") -> nn.Module:
    """Quantizes a model in place; it stays uncalibrated.

    Args:
        model: A float model, e.g. ``detector.backbone``. Parts that are quantized already are left alone.
        policy: Bits, ranges, exceptions.
        prefix: Name of ``model`` in the model that the policy's patterns speak of, e.g. ``'backbone'``.

    Returns:
        The model itself, unless its own class is registered: then its quantized sibling.

    Raises:
        QuantizationError: An override of the policy matches no module.
    """
    before = _names(model, prefix)
    converted = convert_child(model, prefix, policy)
    # Adapters bring modules of their own (attention products) that an override may name.
    policy.check_patterns([*before, *_names(converted, prefix)])
    return converted


def _convert(module: nn.Module, name: str, policy: QuantPolicy, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    if is_quantized(module) or isinstance(module, OPAQUE):
        return module
    factory = factory_of(module)
    result = module
    if factory is None:
        # Not named_children(): it skips a module's second place, which would then keep the float module.
        for child_name, child in module._modules.items():
            if child is not None:
                module._modules[child_name] = _convert(child, join(name, child_name), policy, done)
    elif policy.specs(name) is not None:
        result = factory(module, name, policy)
        result.__dict__[_MARK] = True
    done[module] = result
    return result


def join(prefix: str, name: str) -> str:
    """``'prefix.name'``, without the dot where one of them is empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _names(model: nn.Module, prefix: str) -> list[str]:
    return [join(prefix, name) for name, _ in model.named_modules()]
