"""Twins of mmseg and mmpretrain.

Chu et al., *Twins*, NeurIPS 2021: PCPVT is PVT with conditional position encodings (a depthwise convolution), SVT
alternates attention in windows and attention to a reduced map.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ....generation import AttentionTokens
from ....quantization import QuantLinear, QuantPolicy
from ..conversion import set_norm_input, share_norm
from ..declaration import Adapter, Sink, register_adapter
from ..intercepted import intercepted
from ..product_taps import tap_products
from ..taps import head_mean
from ..windows.regions import window_regions


def tap_local_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap ``LocallyGroupedSelfAttention``: tokens by window, with the padding marked.

    The input of its projection is a map again, without padding; it is cut into windows here.
    """
    shape: dict[str, tuple[int, int]] = {}

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        shape["map"] = tuple(kwargs["hw_shape"] if "hw_shape" in kwargs else args[1])

    def collect(_: nn.Module, args: tuple) -> None:
        height, width = shape["map"]
        tokens = head_mean(args[0], len(args[0]), module.num_heads)[:, 0]
        regions = window_regions(height, width, module.window_size, 0).to(tokens.device)
        windows = _windows(tokens.unflatten(1, (height, width)), module.window_size)
        sink(AttentionTokens(windows, regions if bool((regions != 0).any()) else None, layer=name))

    return [
        module.register_forward_pre_hook(remember, with_kwargs=True),
        module.proj.register_forward_pre_hook(collect),
    ]


def _windows(tokens: Tensor, side: int) -> Tensor:
    """``(b, h, w, d)``, padded at the bottom and right, as ``(b, windows, side * side, d)``."""
    _, height, width, _ = tokens.shape
    padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
    cut = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return cut.flatten(3, 4).flatten(1, 2)


# k and v first: the norm before the attention also feeds the reduction and q.
global_attention = intercepted("kv", "q")


def quantize_global_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """mmpretrain's ``GlobalSubsampledAttention``, with the norm behind its reduction."""
    quantized: Any = global_attention(module, name, policy)
    if module.sr_ratio == 1:
        share_norm(quantized)
    elif isinstance(module.norm, nn.LayerNorm) and isinstance(quantized.kv, QuantLinear):
        set_norm_input(quantized.kv, f"{name}.kv", policy)
    return quantized


MMSEG = "mmseg.models.backbones.twins"
MMPRETRAIN = "mmpretrain.models.backbones.twins"
LOCAL = tuple(f"{library}.LocallyGroupedSelfAttention" for library in (MMSEG, MMPRETRAIN))
register_adapter(
    Adapter(
        # mmseg's GlobalSubsampledAttention is SegFormer's
        attentions={
            **dict.fromkeys(LOCAL, intercepted("qkv")),
            f"{MMPRETRAIN}.GlobalSubsampledAttention": quantize_global_attention,
        },
        taps={
            **dict.fromkeys(LOCAL, tap_local_attention),
            f"{MMPRETRAIN}.GlobalSubsampledAttention": tap_products(),
        },
        blocks=tuple(
            f"{library}.{block}" for library in (MMSEG, MMPRETRAIN) for block in ("GSAEncoderLayer", "LSAEncoderLayer")
        ),
        backbones=tuple(f"{library}.{backbone}" for library in (MMSEG, MMPRETRAIN) for backbone in ("PCPVT", "SVT")),
    )
)
