"""Swin attention of mmdet: its tap, and its quantized form."""

from __future__ import annotations

from typing import Any

from mmdet.models.backbones.swin import ShiftWindowMSA, SwinBlock, WindowMSA
from mmdet.models.layers import PatchEmbed
from torch import Tensor, nn

from ..generation import AttentionTokens
from ..quantization import QuantizedLayer, Quantizer, QuantMatMul, QuantPolicy, convert_child, register_quantized
from .taps import Sink, head_mean, register_tap, window_regions


@register_tap(ShiftWindowMSA)
def tap_shift_window_msa(module: ShiftWindowMSA, name: str, sink: Sink) -> list[Any]:
    """Tap the window attention: tokens by window, with padding and masked pairs marked."""
    shape: dict[str, Any] = {}

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        query = args[0] if args else kwargs["query"]
        height, width = args[1] if len(args) > 1 else kwargs["hw_shape"]
        regions = window_regions(height, width, module.window_size, module.shift_size)
        shape["images"] = query.shape[0]
        shape["regions"] = regions.to(query.device) if bool((regions != 0).any()) else None

    def collect(_: nn.Module, args: tuple) -> None:
        tokens = head_mean(args[0], shape["images"], module.w_msa.num_heads)
        sink(AttentionTokens(tokens, shape["regions"], layer=name))

    return [
        module.register_forward_pre_hook(remember, with_kwargs=True),
        module.w_msa.proj.register_forward_pre_hook(collect),
    ]


class QuantWindowMSA(nn.Module):
    """mmdet's ``WindowMSA`` in decomposed form, with quantizers on its operands.

    Scheme ``deploy`` quantizes what integer engines multiply: the inputs and weights of ``qkv`` and ``proj`` and
    both operands of the two products. Scheme ``psaq`` follows V1: the outputs of ``qkv``, of the first product, of
    the second (as ``proj``'s input) and of ``proj``, and the bias table; the softmax output stays FP. In both, q is
    multiplied by ``head_dim ** -0.5`` before its quantizer in ``deploy`` and after qkv's in ``psaq``; a per-tensor
    scale absorbs the constant, so the integers are the same.

    The keys of the state dict are the float module's, with the quantizers' beside them.
    """

    qk: QuantMatMul
    av: QuantMatMul
    relative_position_bias_table_quantizer: Quantizer | None

    @classmethod
    def from_module(cls, module: WindowMSA, name: str, policy: QuantPolicy) -> QuantWindowMSA:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        psaq = policy.scheme == "psaq"
        self.num_heads, self.window_size, self.scale = module.num_heads, module.window_size, module.scale
        self.relative_position_bias_table = module.relative_position_bias_table
        self.register_buffer("relative_position_index", module.relative_position_index)
        self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.attn_drop, self.proj_drop, self.softmax = module.attn_drop, module.proj_drop, module.softmax
        for product in ("qk", "av"):
            specs = policy.specs(f"{name}.{product}")
            operand = specs.activation if specs and not psaq else None
            result = specs.activation if specs and psaq and product == "qk" else None
            setattr(self, product, QuantMatMul(operand, operand, result, name=f"{name}.{product}"))
        key = "relative_position_bias_table_quantizer"
        table = policy.specs(f"{name}.relative_position_bias_table") if psaq else None
        setattr(self, key, Quantizer(table.activation, f"{name}.{key}") if table else None)
        self.fp_notes = {"softmax": "softmax arithmetic stays FP"}
        if psaq:
            self.av.fp_notes = {"left": "scheme psaq keeps the softmax output FP"}
            if getattr(self.qkv, "output_quantizer", None) is not None:
                self.qk.fp_notes = dict.fromkeys(("left", "right"), "quantized as qkv's output")
                self.av.fp_notes["right"] = "quantized as qkv's output"
        else:
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
        batch, count, channels = x.shape
        # (b, n, 3 c) -> 3 x (b, heads, n, d)
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attention = self.qk(q * self.scale, k.transpose(-2, -1)) + self.position_bias()
        if mask is not None:
            windows = mask.shape[0]
            attention = attention.view(-1, windows, self.num_heads, count, count) + mask[None, :, None]
            attention = attention.view(-1, self.num_heads, count, count)
        attention = self.attn_drop(self.softmax(attention))
        # (b, heads, n, d) -> (b, n, c)
        merged = self.av(attention, v).transpose(1, 2).reshape(batch, count, channels)
        return self.proj_drop(self.proj(merged))

    def position_bias(self) -> Tensor:
        """The relative position bias, ``(1, heads, n, n)``."""
        table = self.relative_position_bias_table
        if self.relative_position_bias_table_quantizer is not None:
            table = self.relative_position_bias_table_quantizer(table)
        count = self.window_size[0] * self.window_size[1]
        bias = table[self.relative_position_index.view(-1)].view(count, count, -1)
        return bias.permute(2, 0, 1).unsqueeze(0)


def convert_with_output(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert a Linear or Conv; scheme ``psaq`` quantizes its output too."""
    layer = convert_child(module, name, policy)
    specs = policy.specs(name)
    if policy.scheme == "psaq" and specs and isinstance(layer, QuantizedLayer):
        layer.output_quantizer = Quantizer(specs.activation, f"{name}.output_quantizer").to(layer.weight.device)
    return layer


def quantize_patch_embed(module: PatchEmbed, name: str, policy: QuantPolicy) -> PatchEmbed:
    """The image embedding: its projection, in scheme ``psaq`` with its output."""
    module.projection = convert_with_output(module.projection, f"{name}.projection", policy)
    return module


def quantize_swin_block(module: SwinBlock, name: str, policy: QuantPolicy) -> SwinBlock:
    """A block: its children, and a note on the sums that stand inline in its forward."""
    for key, child in module.named_children():
        setattr(module, key, convert_child(child, f"{name}.{key}", policy))
    psaq = policy.scheme == "psaq"
    why = "inline in mmdet's SwinBlock, where no quantizer reaches them" if psaq else "scheme deploy keeps them FP"
    module.fp_notes = {"residual_sums": why}
    return module


register_quantized(WindowMSA)(QuantWindowMSA.from_module)
register_quantized(PatchEmbed)(quantize_patch_embed)
register_quantized(SwinBlock)(quantize_swin_block)
