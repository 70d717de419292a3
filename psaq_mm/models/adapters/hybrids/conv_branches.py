"""Conformer and MobileViT of mmpretrain: mmpretrain's ViT layers beside, or between, convolutions.

Peng et al., *Conformer*, ICCV 2021, exchanges features between a convolutional branch and a transformer. Mehta and
Rastegari, *MobileViT*, ICLR 2022, unfolds a map: tokens attend to those at the same place of each patch of 2x2 pixels,
so that an image has four groups of tokens.
"""

from __future__ import annotations

from typing import Any

from ....quantization import register_pairs
from ..declaration import Adapter, register_adapter

CONFORMER = "mmpretrain.models.backbones.conformer"


@register_pairs(f"{CONFORMER}.ConvBlock")
def conv_block_pairs(module: Any) -> list[tuple[str, str]]:
    """The convolutions of a block of Conformer's and their norms."""
    return [*((f"conv{index}", f"bn{index}") for index in (1, 2, 3)), ("residual_conv", "residual_bn")]


@register_pairs(f"{CONFORMER}.FCUUp")
def up_pairs(module: Any) -> list[tuple[str, str]]:
    """The projection from tokens to maps and its norm."""
    return [("conv_project", "bn")]


@register_pairs(f"{CONFORMER}.Conformer")
def stem_pairs(module: Any) -> list[tuple[str, str]]:
    """The first convolution and its norm."""
    return [("conv1", "bn1")]


# The attention and its blocks are those of mmpretrain's ViT.
register_adapter(
    Adapter(backbones=(f"{CONFORMER}.Conformer", "mmpretrain.models.backbones.mobilevit.MobileViT")),
)
