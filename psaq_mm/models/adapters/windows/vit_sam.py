"""ViTSAM of mmpretrain: attention in windows, in a few layers among all tokens, with decomposed relative positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....generation import AttentionTokens
from ....quantization import QuantPolicy
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..taps import head_mean
from .regions import window_regions

_quantize = intercepted("qkv")


def quantize_sam_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form of SAM's attention, of q and k at ``(h, w)`` and ``(h', w')``.

    Kirillov et al., *Segment Anything*, ICCV 2023, after Li et al., *MViTv2*, CVPR 2022::

        softmax(scale q k^T + q . R_h(h - h') + q . R_w(w - w')) v

    The two products with position tables, which are small, stay FP: einsum, which is not intercepted.
    """
    _quantize(module, name, policy)
    if module.use_rel_pos:
        module.fp_notes["other_products"] = "products with position tables stay FP"
    return module


def tap_sam_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the attention in a block, which itself pads its input, a map, and cuts it into windows."""
    shape: dict[str, Any] = {}

    def remember(_: nn.Module, args: tuple) -> None:
        images, height, width, _channels = args[0].shape
        shape["images"], shape["regions"] = images, None
        if module.window_size > 0:
            regions = window_regions(height, width, module.window_size, 0)
            shape["regions"] = regions.to(args[0].device) if bool((regions != 0).any()) else None

    def collect(_: nn.Module, args: tuple[Tensor]) -> None:
        tokens = head_mean(args[0].flatten(1, 2), shape["images"], module.attn.num_heads)
        sink(AttentionTokens(tokens, shape["regions"], layer=f"{name}.attn"))

    return [module.register_forward_pre_hook(remember), module.attn.proj.register_forward_pre_hook(collect)]


MMPRETRAIN = "mmpretrain.models.backbones.vit_sam"
register_adapter(
    Adapter(
        attentions={f"{MMPRETRAIN}.Attention": quantize_sam_attention},
        taps={f"{MMPRETRAIN}.TransformerEncoderLayer": tap_sam_block},
        blocks=(f"{MMPRETRAIN}.TransformerEncoderLayer",),
        backbones=(f"{MMPRETRAIN}.ViTSAM",),
    )
)
