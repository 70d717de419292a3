"""torch's own ``MultiheadAttention``, ``TransformerEncoderLayer`` and ``TransformerEncoder`` in models of one's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....quantization import QuantPolicy, register_quantized
from ..conversion import NormOrder, convert_children, quantize_block
from ..declaration import TAPS, Adapter, Sink, register_adapter
from ..product_taps import tap_steps
from .torch_attention import FLOAT, QuantTorchAttention, is_plain


class QuantTorchLayer(QuantTorchAttention):
    """``torch.nn.MultiheadAttention`` in decomposed form, with the arguments and results of torch's."""

    batch_first: bool
    # read by torch's encoder layers, which take their fast path only if there is a bias
    in_proj_bias = None
    _qkv_same_embed_dim = True
    bias_k = bias_v = None
    add_zero_attn = False
    embed_dim: int
    head_dim: int
    dropout: float

    @classmethod
    def from_module(cls, module: nn.MultiheadAttention, name: str, policy: QuantPolicy) -> QuantTorchLayer:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention, with one packed projection and no bias tokens.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self: Any = super().from_module(module, name, policy)
        self.batch_first, self.dropout = module.batch_first, module.dropout
        self.embed_dim, self.head_dim = module.embed_dim, module.head_dim
        return self

    @property
    def kdim(self) -> int:
        """Channels of the keys."""
        return self.embed_dim

    @property
    def vdim(self) -> int:
        """Channels of the values."""
        return self.embed_dim

    @property
    def in_proj_weight(self) -> Any:
        """The weight of the packed projection, ``(3 * embed_dim, embed_dim)``, before its quantizer."""
        return self.in_proj.weight

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See torch's documentation; without a batch, or with it first or second.

        ``is_causal`` says only what ``attn_mask`` contains, as in torch.
        """
        single = query.dim() == 2
        turned: dict[int, Tensor] = {}
        for x in (query, key, value):
            # the same tensor stays the same object: it is then projected once
            one = x.unsqueeze(0) if single else x if self.batch_first else x.transpose(0, 1)
            turned.setdefault(id(x), one)
        if single and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = self.project(*(turned[id(x)] for x in (query, key, value)))
        weights = self.weights(q, k, *self.biases(q, attn_mask, key_padding_mask))
        out = self.out_proj(self.merge(self.attn_drop(weights), v))
        out = out.squeeze(0) if single else out if self.batch_first else out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights.squeeze(0) if single else weights


def quantize_torch_attention(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """The quantized form, or the float module itself where it has parts that the form has not (rare)."""
    return QuantTorchLayer.from_module(module, name, policy) if is_plain(module) else module


def quantize_encoder_layer(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert the children, and turn off torch's fast path, which would multiply by the float weights."""
    module.activation_relu_or_gelu = 0
    return quantize_block(module, name, policy, NormOrder.POST)


def quantize_encoder(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert the children, and turn off nested tensors, which only torch's fast path can compute with.

    Outputs at padded positions are then not 0, as those of the float module in training.
    """
    module.use_nested_tensor = False
    return convert_children(module, name, policy, NormOrder.POST)


class PaddedTensors:
    """Turns off an encoder's nested tensors until it is removed; used like the handle of a hook."""

    def __init__(self, module: Any) -> None:
        # encoders that older versions of torch have saved lack the attribute, and then use none
        self.module, self._before = module, getattr(module, "use_nested_tensor", False)
        module.use_nested_tensor = False

    def remove(self) -> None:
        """Let the encoder's own setting count again."""
        self.module.use_nested_tensor = self._before


def tap_encoder(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap every attention in torch's encoder, which uses no nested tensors while tapped."""
    handles: list[Any] = [PaddedTensors(module)]
    covered = ""
    for key, child in module.named_modules():
        tap = TAPS.of(type(child)) if child is not module else None
        if tap is not None and not (covered and key.startswith(covered)):
            covered = f"{key}."
            handles += tap(child, f"{name}.{key}" if name else key, sink, prefix)
    return handles


def tap_torch_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap torch's attention: while tapped, it computes step by step with the same parameters."""
    if not is_plain(module):
        return []
    steps = QuantTorchLayer.from_module(module, name, FLOAT)
    return tap_steps(module, steps, steps.out_proj, name, sink, prefix)


ATTENTION = "torch.nn.modules.activation.MultiheadAttention"
ENCODER = "torch.nn.modules.transformer.TransformerEncoder"
register_adapter(
    Adapter(
        attentions={ATTENTION: quantize_torch_attention},
        taps={ATTENTION: tap_torch_attention, ENCODER: tap_encoder},
    )
)
# not as a block of the adapter: its norms may stand before the layers or behind them
register_quantized("torch.nn.modules.transformer.TransformerEncoderLayer")(quantize_encoder_layer)
register_quantized(ENCODER)(quantize_encoder)
