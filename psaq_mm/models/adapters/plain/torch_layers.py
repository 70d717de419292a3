"""torch's own ``MultiheadAttention`` and ``TransformerEncoderLayer``, as models of one's own use them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....quantization import QuantPolicy, register_quantized
from ..conversion import NormOrder, quantize_block
from ..declaration import Adapter, Sink, register_adapter
from ..product_taps import OwnForward
from ..taps import sequence_tokens
from .torch_attention import FLOAT, QuantTorchAttention, is_plain


class QuantTorchLayer(QuantTorchAttention):
    """``torch.nn.MultiheadAttention`` in decomposed form, with the arguments and results of torch's."""

    batch_first: bool
    # read by torch's encoder layers, which take their fast path only if there is a bias
    in_proj_bias = None
    _qkv_same_embed_dim = True

    @classmethod
    def from_module(cls, module: nn.MultiheadAttention, name: str, policy: QuantPolicy) -> QuantTorchLayer:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention, with one packed projection and no bias tokens.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self: Any = super().from_module(module, name, policy)
        self.batch_first, self.embed_dim = module.batch_first, module.embed_dim
        return self

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


def tap_torch_attention(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap torch's attention: while tapped, it computes step by step with the same parameters."""
    if not is_plain(module):
        return []
    steps = QuantTorchLayer.from_module(module, name, FLOAT)

    def collect(_: nn.Module, args: tuple) -> None:
        sink(sequence_tokens(args[0], module.num_heads, name, prefix))

    return [OwnForward(module, steps.forward), steps.out_proj.register_forward_pre_hook(collect)]


ATTENTION = "torch.nn.modules.activation.MultiheadAttention"
register_adapter(Adapter(attentions={ATTENTION: quantize_torch_attention}, taps={ATTENTION: tap_torch_attention}))
# not as a block of the adapter: its norms may stand before the layers or behind them
register_quantized("torch.nn.modules.transformer.TransformerEncoderLayer")(quantize_encoder_layer)
