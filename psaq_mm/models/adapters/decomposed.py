"""Attention in decomposed form, with quantizers on what is multiplied: what the forms of all libraries share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...quantization import (
    QuantizedLayer,
    Quantizer,
    QuantLinear,
    QuantMatMul,
    QuantPolicy,
    convert_child,
    full_name,
    register_quantized,
)

BLOCKS = (
    "mmdet.models.backbones.swin.SwinBlock",
    "mmseg.models.backbones.swin.SwinBlock",
    "mmseg.models.backbones.vit.TransformerEncoderLayer",
    "mmpretrain.models.backbones.swin_transformer.SwinBlock",
    "mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer",
    "timm.models.swin_transformer.SwinTransformerBlock",
    "timm.models.vision_transformer.Block",
    "timm.models.vision_transformer.ResPostBlock",
)
OF_PROJECTION = "quantized as {}'s output"


class DecomposedAttention(nn.Module):
    """``softmax(scale q k^T + bias) v`` by two products of their own.

    Scheme ``deploy`` quantizes what integer engines multiply: the inputs and weights of the projections and both
    operands of the two products. Scheme ``psaq`` follows V1: the outputs of the projection to q, k and v, of the
    first product, of the second (as the output projection's input) and of the output projection; the softmax output
    stays FP. In both, q is multiplied by the scale before its quantizer in ``deploy`` and after the projection's in
    ``psaq``; a per-tensor scale absorbs the constant, so the integers are the same.

    The keys of the state dict are the float module's, with the quantizers' beside them.
    """

    qk: QuantMatMul
    av: QuantMatMul
    attn_drop: nn.Module
    num_heads: int
    scale: float
    softmax_rows: bool = False

    def adopt(self, module: Any, scale: float, drop: nn.Module) -> None:
        """Take over what every form has: heads, scale, dropout of the softmax."""
        self.num_heads, self.scale, self.attn_drop = module.num_heads, scale, drop

    def add_products(self, name: str, policy: QuantPolicy, projection: str, normalised: bool = False) -> None:
        """Make the two products, and say what stays FP.

        Args:
            name: The attention's name in the model.
            policy: What to quantize and how.
            projection: Which layer makes q, k and v.
            normalised: q and k are normalised behind it: the projection's output is then not what is multiplied.
        """
        psaq = policy.scheme == "paper"
        for product in ("qk", "av"):
            specs = policy.specs(f"{name}.{product}")
            operand = specs.activation if specs and (not psaq or (normalised and product == "qk")) else None
            result = specs.activation if specs and psaq and product == "qk" else None
            left = operand
            if product == "av" and specs and operand:
                left, self.softmax_rows = specs.softmax, specs.softmax_rows
            setattr(self, product, QuantMatMul(left, operand, result, name=f"{name}.{product}"))
        self.fp_notes = {"softmax": "softmax arithmetic stays FP"}
        if self.softmax_rows:
            self.fp_notes["softmax_row_maximum"] = "division by it and multiplication behind the product stay FP"
        if psaq:
            self.av.fp_notes = {"left": "scheme psaq keeps the softmax output FP"}
            if getattr(getattr(self, projection), "output_quantizer", None) is not None:
                self.av.fp_notes["right"] = OF_PROJECTION.format(projection)
                if not normalised:
                    self.qk.fp_notes = dict.fromkeys(("left", "right"), OF_PROJECTION.format(projection))

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """``(b, n, 3 heads d)`` as q, k and v, ``(b, heads, n, d)`` each."""
        return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *biases: Tensor | None) -> Tensor:
        """Attention of all heads.

        Args:
            q: ``(b, heads, n, d)``.
            k: ``(b, heads, m, d)``.
            v: As ``k``.
            *biases: Added to the scores in turn, ``(groups, heads or 1, n, m)`` each; the groups (windows) repeat
                from image to image.

        Returns:
            ``(b, n, heads * d)``.
        """
        scores = self.qk(q * self.scale, k.transpose(-2, -1))
        for bias in biases:
            if bias is not None:
                scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        weights, peak = self.attn_drop(scores.softmax(-1)), None
        if self.softmax_rows:
            # The quantizer then sees every row from 0 to 1; what it was divided by comes back behind the product.
            peak = weights.amax(-1, keepdim=True)
            weights = weights / peak
        merged = self.av(weights, v)
        return (merged if peak is None else merged * peak).transpose(1, 2).flatten(2)


def convert_with_output(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert a Linear or Conv; scheme ``psaq`` quantizes its output too."""
    layer = convert_child(module, name, policy)
    specs = policy.specs(name)
    if policy.scheme == "paper" and specs and isinstance(layer, QuantizedLayer):
        layer.output_quantizer = Quantizer(specs.activation, f"{name}.output_quantizer").to(layer.weight.device)
    return layer


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a float or quantized model, in the order in which they are registered, hence run."""
    return [one for one in model.modules() if any(full_name(cls) in BLOCKS for cls in type(one).__mro__)]


@register_quantized(*BLOCKS)
def quantize_block(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """A transformer block: its children, and a note on the sums that stand inline in its forward."""
    convert_children(module, name, policy)
    module.fp_notes = {"residual_sums": inline_sum(module, policy)}
    return module


def convert_children(module: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert what runs in the order in which it is registered; behind a norm, the first layer gets its own input spec.

    Args:
        module: A block that norms before it computes, or a patch merging.
        name: Its name in the model.
        policy: What to quantize and how.
    """
    before = None
    for key, child in module.named_children():
        converted = convert_child(child, f"{name}.{key}", policy)
        setattr(module, key, converted)
        if isinstance(before, nn.LayerNorm):
            first = next(((k, m) for k, m in converted.named_modules() if isinstance(m, nn.Linear)), None)
            if first is not None and isinstance(first[1], QuantLinear):
                set_norm_input(first[1], ".".join(filter(None, (name, key, first[0]))), policy)
        before = child
    return module


def set_norm_input(layer: QuantLinear, name: str, policy: QuantPolicy) -> None:
    """Give a layer that reads a norm's output the input spec for that."""
    specs = policy.specs(name)
    if specs is not None and layer.input_quantizer is not None:
        layer.input_quantizer = Quantizer(specs.norm_input, f"{name}.input_quantizer").to(layer.weight.device)


def quantize_patch_embed(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The image embedding: its projection, in scheme ``psaq`` with its output."""
    for key, child in module.named_children():
        convert = convert_with_output if isinstance(child, nn.Conv2d) else convert_child
        setattr(module, key, convert(child, f"{name}.{key}", policy))
    return module


def note_float_parts(model: nn.Module, policy: QuantPolicy) -> None:
    """Say of what no quantizer reaches in any backbone why: position embeddings, extra tokens, layer scales."""
    for module in model.modules():
        own = [key for key, value in module._parameters.items() if value is not None]
        embeddings = [key for key in own if key.endswith(("pos_embed", "_token"))]
        if embeddings:
            notes = {**dict.fromkeys(embeddings, "embeddings stay FP"), "embedding_sum": inline_sum(module, policy)}
            module.fp_notes = {**notes, **getattr(module, "fp_notes", {})}
        elif type(module).__name__ == "LayerScale":
            module.fp_notes = dict.fromkeys(own, "layer scales stay FP")


def inline_sum(module: nn.Module, policy: QuantPolicy) -> str:
    """Why the sums in a module's forward stay FP."""
    if policy.scheme != "paper":
        return "scheme deploy keeps them FP"
    host = next(cls for cls in type(module).__mro__ if not cls.__module__.startswith("psaq_mm."))
    return f"inline in {host.__module__.partition('.')[0]}'s {host.__name__}, where no quantizer reaches them"
