"""Conversion of the modules around attention, shared by all families: blocks, patch embeddings, patch mergings."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torch import nn

from ...quantization import QuantizedLayer, Quantizer, QuantLinear, QuantPolicy, convert_child
from ...quantization.convert import Factory


class NormOrder(Enum):
    """Where the norms of a block stand.

    ``PRE``: ``x + f(norm(x))``. The first layer of ``f`` reads a norm's output and nothing else does, so a scale for
    each channel of its input can go into the norm's gamma and beta.

    ``POST``: ``norm(f(x))`` is added to ``x`` (SwinV2). A norm's output is then
    also a summand of the residual sum, so no layer's scales can go into its gamma and beta.
    """

    PRE = "pre"
    POST = "post"


def convert_with_output(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert a Linear or Conv; schemes other than ``deploy`` quantize its output too."""
    layer = convert_child(module, name, policy)
    if isinstance(layer, QuantizedLayer):
        add_output_quantizer(layer, name, policy)
    return layer


def add_output_quantizer(layer: QuantizedLayer, name: str, policy: QuantPolicy) -> None:
    """Quantize the output of a converted layer, except in scheme ``deploy``."""
    specs = policy.specs(name)
    if policy.scheme != "deploy" and specs:
        layer.output_quantizer = Quantizer(specs.activation, f"{name}.output_quantizer").to(layer.weight.device)


def quantize_block(module: Any, name: str, policy: QuantPolicy, norm_order: NormOrder = NormOrder.PRE) -> nn.Module:
    """Convert the children of a transformer block, and note that the sums in its forward stay FP."""
    convert_children(module, name, policy, norm_order)
    module.fp_notes = {"residual_sums": inline_sum(module, policy)}
    return module


def quantize_patch_merging(
    module: nn.Module, name: str, policy: QuantPolicy, norm_order: NormOrder = NormOrder.PRE
) -> nn.Module:
    """Convert the children of a patch merging."""
    return convert_children(module, name, policy, norm_order)


def convert_children(module: nn.Module, name: str, policy: QuantPolicy, norm_order: NormOrder) -> nn.Module:
    """Convert the children of a module that runs them in the order in which they are registered.

    Args:
        module: A block or a patch merging, changed in place.
        name: Its name in the model.
        policy: What to quantize and how.
        norm_order: With ``PRE``, the first Linear behind each LayerNorm gets the policy's spec for norm outputs.
    """
    before = None
    for key, child in module.named_children():
        converted = convert_child(child, f"{name}.{key}", policy)
        setattr(module, key, converted)
        if norm_order is NormOrder.PRE and isinstance(before, nn.LayerNorm) and not shares_norm(converted):
            first = next(((k, m) for k, m in converted.named_modules() if isinstance(m, nn.Linear)), None)
            if first is not None and isinstance(first[1], QuantLinear):
                set_norm_input(first[1], ".".join(filter(None, (name, key, first[0]))), policy)
        before = child
    return module


def shares_norm(module: nn.Module) -> bool:
    """Whether an adapter has marked a module as not the only reader of the norm before it (:func:`share_norm`)."""
    return bool(getattr(module, "shares_norm", False))


def share_norm(module: Any) -> None:
    """Mark a child of a block: another layer reads the norm's output too, so no scales can go into the norm."""
    module.shares_norm = True


def set_norm_input(layer: QuantLinear, name: str, policy: QuantPolicy) -> None:
    """Give a layer whose input is a norm's output the policy's spec for such inputs."""
    specs = policy.specs(name)
    if specs is not None and layer.input_quantizer is not None:
        layer.input_quantizer = Quantizer(specs.norm_input, f"{name}.input_quantizer").to(layer.weight.device)


def quantize_patch_embed(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert the image embedding; schemes other than ``deploy`` also quantize the output of its convolution."""
    for key, child in module.named_children():
        convert = convert_with_output if isinstance(child, nn.Conv2d) else convert_child
        setattr(module, key, convert(child, f"{name}.{key}", policy))
    return module


def keep_parameters(reason: str) -> Factory:
    """A factory for modules that keep all of their own parameters FP, such as position tables.

    Args:
        reason: Why, for the coverage report.
    """

    def keep(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
        convert_children(module, name, policy, NormOrder.POST)
        module.fp_notes = {key: reason for key, value in module._parameters.items() if value is not None}
        return module

    return keep


def inline_sum(module: nn.Module, policy: QuantPolicy) -> str:
    """The reason why the sums in a module's forward stay FP."""
    if policy.scheme == "deploy":
        return "scheme deploy keeps them FP"
    host = next(cls for cls in type(module).__mro__ if not cls.__module__.startswith("psaq_mm."))
    return f"inline in {host.__module__.partition('.')[0]}'s {host.__name__}, where no quantizer reaches them"
