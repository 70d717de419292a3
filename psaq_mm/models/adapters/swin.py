"""Window attention of mmdet, mmseg, mmpretrain and timm: taps and the quantized form, which is the same for all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...generation import AttentionTokens
from ...quantization import Quantizer, QuantPolicy, register_quantized
from .decomposed import DecomposedAttention, convert_children, convert_with_output, quantize_patch_embed
from .taps import Sink, head_mean, register_tap, window_regions


def tap_windows(
    outer: nn.Module, attention: Any, regions_of: Any, name: str, sink: Sink
) -> list[torch.utils.hooks.RemovableHandle]:
    """Tap a window attention: tokens by window, with padding and masked pairs marked.

    Args:
        outer: The module around it, which still sees images.
        attention: The attention itself, which sees windows.
        regions_of: Gives the number of images and the regions from the arguments of ``outer``.
        name: The layer.
        sink: Where the tokens go.
    """
    shape: dict[str, Any] = {}

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        images, regions, device = regions_of(*args, **kwargs)
        shape["images"] = images
        shape["regions"] = regions.to(device) if bool((regions != 0).any()) else None

    def collect(_: nn.Module, args: tuple) -> None:
        tokens = head_mean(args[0], shape["images"], attention.num_heads)
        sink(AttentionTokens(tokens, shape["regions"], layer=name))

    return [
        outer.register_forward_pre_hook(remember, with_kwargs=True),
        attention.proj.register_forward_pre_hook(collect),
    ]


@register_tap(
    "mmdet.models.backbones.swin.ShiftWindowMSA",
    "mmseg.models.backbones.swin.ShiftWindowMSA",
    "mmpretrain.models.utils.attention.ShiftWindowMSA",
)
def tap_shift_window_msa(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of an OpenMMLab library."""

    def regions_of(query: Tensor, hw_shape: tuple[int, int]) -> tuple[int, Tensor, torch.device]:
        shift = module.shift_size
        # mmpretrain does not shift where one window spans the map
        if not getattr(module, "pad_small_map", True) and min(hw_shape) == module.window_size:
            shift = 0
        return query.shape[0], window_regions(*hw_shape, module.window_size, shift), query.device

    return tap_windows(module, module.w_msa, regions_of, name, sink)


@register_tap("timm.models.swin_transformer.SwinTransformerBlock")
def tap_timm_swin_block(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap the window attention of a block of timm's, which shifts and pads in the block itself."""

    def regions_of(x: Tensor) -> tuple[int, Tensor, torch.device]:
        regions = window_regions(x.shape[1], x.shape[2], module.window_size, module.shift_size, roll_first=True)
        return x.shape[0], regions, x.device

    return tap_windows(module, module.attn, regions_of, f"{name}.attn", sink)


class QuantWindowMSA(DecomposedAttention):
    """``WindowMSA`` (timm: ``WindowAttention``) in decomposed form, with quantizers on its operands.

    Scheme ``psaq`` also quantizes the bias table, as V1 does; ``deploy`` keeps it FP.
    """

    relative_position_bias_table_quantizer: Quantizer | None

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantWindowMSA:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        psaq = policy.scheme == "paper"
        self.adopt(module, module.scale, module.attn_drop)
        self.window_size = module.window_size
        self.relative_position_bias_table = module.relative_position_bias_table
        index = "relative_position_index"
        # timm leaves it out of its checkpoints
        self.register_buffer(index, getattr(module, index), persistent=index in module.state_dict())
        self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.proj_drop = module.proj_drop
        self.add_products(name, policy, "qkv")
        key = "relative_position_bias_table_quantizer"
        table = policy.specs(f"{name}.relative_position_bias_table") if psaq else None
        setattr(self, key, Quantizer(table.activation, f"{name}.{key}") if table else None)
        if not psaq:
            self.fp_notes["relative_position_bias_table"] = "scheme deploy keeps bias tables FP"
        return self.train(module.training)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Window attention.

        Args:
            x: ``(windows * images, n, channels)``.
            mask: ``(windows, n, n)``, 0 where a pair may look at each other and -100 where not, or None.

        Returns:
            The shape of ``x``.
        """
        q, k, v = self.split(self.qkv(x))
        merged = self.attend(q, k, v, self.position_bias(), None if mask is None else mask[:, None])
        return self.proj_drop(self.proj(merged))

    def position_bias(self) -> Tensor:
        """The relative position bias, ``(1, heads, n, n)``."""
        table = self.relative_position_bias_table
        if self.relative_position_bias_table_quantizer is not None:
            table = self.relative_position_bias_table_quantizer(table)
        count = self.window_size[0] * self.window_size[1]
        bias = table[self.relative_position_index.view(-1)].view(count, count, -1)
        return bias.permute(2, 0, 1).unsqueeze(0)


class TolerantLoadHook:
    """A host's load hook that would take a quantizer's keys for a parameter's: it does not get to see them."""

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def __call__(self, state_dict: dict[str, Any], *args: Any) -> None:
        """Run the hook on the other keys."""
        hidden = {key: state_dict.pop(key) for key in list(state_dict) if "_quantizer." in key}
        self.hook(state_dict, *args)
        state_dict.update(hidden)


def let_bias_tables_load(model: nn.Module) -> None:
    """mmpretrain's Swin resizes on loading all that is called a bias table, the quantizers' scales too."""
    for module in model.modules():
        if hasattr(module, "_prepare_relative_position_bias_table"):
            hooks = module._load_state_dict_pre_hooks
            hooks.update({k: h if isinstance(h, TolerantLoadHook) else TolerantLoadHook(h) for k, h in hooks.items()})


register_quantized(
    "mmdet.models.backbones.swin.WindowMSA",
    "mmseg.models.backbones.swin.WindowMSA",
    "mmpretrain.models.utils.attention.WindowMSA",
    "timm.models.swin_transformer.WindowAttention",
)(QuantWindowMSA.from_module)
register_quantized(
    "mmdet.models.layers.transformer.utils.PatchMerging",
    "mmseg.models.utils.embed.PatchMerging",
    "mmcv.cnn.bricks.transformer.PatchMerging",
    "timm.models.swin_transformer.PatchMerging",
)(convert_children)
register_quantized(
    "mmdet.models.layers.transformer.utils.PatchEmbed",
    "mmseg.models.utils.embed.PatchEmbed",
    "mmcv.cnn.bricks.transformer.PatchEmbed",
    "timm.layers.patch_embed.PatchEmbed",
)(quantize_patch_embed)
