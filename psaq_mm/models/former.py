"""Artifacts of earlier versions, which quantized fewer classes.

An artifact has the quantizers that there were when it was written. Classes that got a quantized form, or a batch norm
that is folded, since then must stay as they were, or its weights would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..quantization.convert import FACTORIES
from ..quantization.fold import PAIRS
from ..utils.class_table import ClassTable

# A key of the policy, which every artifact contains as a whole, that came with the classes below.
DATING_KEY = "first_layer"
LIBRARIES = ("mmcv", "mmdet", "mmseg", "mmpretrain", "timm", "torch")
FORMS = frozenset(
    (
        *(f"torch.nn.modules.{one}" for one in ("conv.Conv2d", "conv.ConvTranspose2d", "linear.Linear")),
        *(f"mmcv.cnn.bricks.wrappers.{one}" for one in ("Conv2d", "ConvTranspose2d", "Linear")),
        *(f"mmcv.cnn.bricks.transformer.{one}" for one in ("MultiheadAttention", "PatchEmbed", "PatchMerging")),
        *(f"{one}.models.backbones.swin.{part}" for one in ("mmdet", "mmseg") for part in ("SwinBlock", "WindowMSA")),
        *(f"mmdet.models.layers.transformer.utils.{one}" for one in ("PatchEmbed", "PatchMerging")),
        *(f"mmseg.models.utils.embed.{one}" for one in ("PatchEmbed", "PatchMerging")),
        "mmseg.models.backbones.vit.TransformerEncoderLayer",
        "mmpretrain.models.backbones.swin_transformer.SwinBlock",
        "mmpretrain.models.backbones.swin_transformer_v2.SwinBlockV2",
        "mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer",
        *(f"mmpretrain.models.utils.attention.{one}" for one in ("MultiheadAttention", "WindowMSA", "WindowMSAV2")),
        "mmpretrain.models.utils.embed.PatchMerging",
        "timm.layers.attention.Attention",
        "timm.layers.patch_embed.PatchEmbed",
        *(f"timm.models.vision_transformer.{one}" for one in ("Attention", "Block", "ResPostBlock")),
        *(f"timm.models.swin_transformer.{one}" for one in ("PatchMerging", "SwinTransformerBlock", "WindowAttention")),
        *(
            f"timm.models.swin_transformer_v2.{one}"
            for one in ("PatchMerging", "SwinTransformerV2Block", "WindowAttention")
        ),
    )
)
FOLDED = frozenset(("mmcv.cnn.bricks.conv_module.ConvModule", "torch.nn.modules.container.Sequential"))


@contextmanager
def forms_of(quantization: Mapping[str, Any]) -> Iterator[None]:
    """Convert, within the block, only those classes of libraries that the version of an artifact converted.

    Args:
        quantization: The policy of the artifact.
    """
    with ExitStack() as stack:
        if DATING_KEY not in quantization:
            stack.enter_context(only(FACTORIES, FORMS))
            stack.enter_context(only(PAIRS, FOLDED))
        yield


@contextmanager
def only(table: ClassTable[Any], names: frozenset[str]) -> Iterator[None]:
    """Leave out, within the block, the classes of libraries that are not among some names."""
    every = dict(table.values)
    for name in every:
        if name.partition(".")[0] in LIBRARIES and name not in names:
            del table.values[name]
    try:
        yield
    finally:
        table.values.clear()
        table.values.update(every)
