"""What an adapter declares about an architecture, and the one rule by which a class is matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from ...generation import AttentionTokens
from ...quantization import register_quantized
from ...quantization.convert import Factory
from ...utils.class_table import ClassTable
from .conversion import NormOrder, quantize_block, quantize_patch_embed, quantize_patch_merging

Sink = Callable[[AttentionTokens], None]
# of a module: its name, where its tokens go, how many tokens stand before the patches -> handles with a remove()
Tap = Callable[[Any, str, Sink, int], list[Any]]


@dataclass(frozen=True)
class Adapter:
    """All that the package needs to know about an architecture. Classes are given by their full names.

    Attributes:
        attentions: Attention classes and how each is quantized: the factory gets the float module, its name in the
            model and the policy, and returns the quantized module.
        taps: Which classes are tapped, and how: the attention itself, or the module around it if that one has the
            geometry (window attention). A tap gets the module, its name, where to put the tokens, and how many tokens
            stand before the patches; it attaches hooks and returns their handles.
        blocks: Transformer blocks. Their children are converted in the order of registration.
        norm_order: Where the norms of ``blocks`` and ``patch_mergings`` stand. ``PRE``: before the layers, whose
            inputs then get the policy's spec for norm outputs. ``POST``: behind them.
        patch_embeds: Modules that make tokens of the image by a convolution.
        patch_mergings: Modules that halve the token map.
        layer_scales: Learned factors of a residual branch, which stay FP.
        backbones: Backbones that may be named in a config of scope ``backbone``.
        classifiers: Whole models without a ``backbone`` attribute that may be named there.
        fixed_sizes: Of modules that take images of one size only: gives it as ``(height, width)``, None for any.
        smallest_maps: Of modules that do not pad small maps: gives the shortest side of a map in tokens, None for any.
        constants: Of modules with buffers that the host computes anew instead of loading them: the buffers' names.
            Checkpoints may lack them.
        hidden_keys: Of modules with load hooks that change the state dict: parts of the keys that these hooks must not
            see, such as those of quantizers.
        unprefixed: Of modules in a model with a class token: the children whose sequences do not begin with it.
    """

    attentions: Mapping[str, Factory] = field(default_factory=dict)
    taps: Mapping[str, Tap] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    norm_order: NormOrder = NormOrder.PRE
    patch_embeds: tuple[str, ...] = ()
    patch_mergings: tuple[str, ...] = ()
    layer_scales: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    fixed_sizes: Mapping[str, Callable[[Any], tuple[int, int] | None]] = field(default_factory=dict)
    smallest_maps: Mapping[str, Callable[[Any], int | None]] = field(default_factory=dict)
    constants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hidden_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unprefixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TAPS: ClassTable[Tap] = ClassTable()
BLOCKS: ClassTable[Adapter] = ClassTable()
PATCH_EMBEDS: ClassTable[Adapter] = ClassTable()
PATCH_MERGINGS: ClassTable[Adapter] = ClassTable()
LAYER_SCALES: ClassTable[Adapter] = ClassTable()
BACKBONES: ClassTable[Adapter] = ClassTable()
CLASSIFIERS: ClassTable[Adapter] = ClassTable()
FIXED_SIZES: ClassTable[Callable[[Any], tuple[int, int] | None]] = ClassTable()
SMALLEST_MAPS: ClassTable[Callable[[Any], int | None]] = ClassTable()
CONSTANTS: ClassTable[tuple[str, ...]] = ClassTable()
HIDDEN_KEYS: ClassTable[tuple[str, ...]] = ClassTable()
UNPREFIXED: ClassTable[tuple[str, ...]] = ClassTable()


def register_adapter(adapter: Adapter) -> Adapter:
    """Make the package use an adapter; for a class that is declared twice, the later declaration counts.

    Example, for a ViT of one's own whose attention computes as timm's::

        register_adapter(Adapter(
            attentions={'my_vit.Attention': QuantAttention.from_module},
            taps={'my_vit.Attention': tap_timm_attention},
            blocks=('my_vit.Block',),
            backbones=('my_vit.MyViT',),
        ))
    """
    blocks = partial(quantize_block, norm_order=adapter.norm_order)
    mergings = partial(quantize_patch_merging, norm_order=adapter.norm_order)
    register_quantized(*adapter.blocks)(blocks)
    register_quantized(*adapter.patch_mergings)(mergings)
    register_quantized(*adapter.patch_embeds)(quantize_patch_embed)
    for name, factory in adapter.attentions.items():
        register_quantized(name)(factory)
    BLOCKS.add(adapter.blocks, adapter)
    PATCH_EMBEDS.add(adapter.patch_embeds, adapter)
    PATCH_MERGINGS.add(adapter.patch_mergings, adapter)
    LAYER_SCALES.add(adapter.layer_scales, adapter)
    BACKBONES.add(adapter.backbones, adapter)
    CLASSIFIERS.add(adapter.classifiers, adapter)
    TAPS.values.update(adapter.taps)
    FIXED_SIZES.values.update(adapter.fixed_sizes)
    SMALLEST_MAPS.values.update(adapter.smallest_maps)
    CONSTANTS.values.update(adapter.constants)
    HIDDEN_KEYS.values.update(adapter.hidden_keys)
    UNPREFIXED.values.update(adapter.unprefixed)
    return adapter


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a float or quantized model, in the order of registration, which is that of execution."""
    return [module for module in model.modules() if BLOCKS.match(type(module))]
