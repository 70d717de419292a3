"""Attention that keeps its library's forward: products are taken over while it runs.

Most attention classes differ in everything but two matrix products: in how q, k and v are made, in position biases,
masks, pooling and what follows. Their quantized form and their tap therefore run the library's own ``forward``, and
take over the products in it, in the order of their calls.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ...errors import PSAQError
from ...generation import AttentionTokens
from ...quantization import QuantizedLayer, QuantMatMul, QuantPolicy, convert_child
from ...quantization.convert import Factory
from .conversion import add_output_quantizer
from .declaration import Sink, Tap
from .products import AttentionProducts

Multiply = Callable[..., Tensor]
PRODUCTS = frozenset(
    (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__)  # type: ignore[attr-defined]
)
# Code whose products are not an attention's: those of layers and quantizers, which run within its forward.
OWN = ("torch", "psaq_mm")


class Intercept(TorchFunctionMode):
    """While active, passes the matrix products that a library's code computes to a function.

    Args:
        product: Gets the product's function and its two operands, and returns its result.
        fused: Whether torch's fused attention is computed in steps, as two products; else it is passed to ``product``
            with all of its arguments, as one.
    """

    def __init__(self, product: Callable[..., Tensor], fused: bool) -> None:
        super().__init__()
        self.product, self.fused = product, fused

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        caller = str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0]
        if caller not in OWN:
            if func in PRODUCTS:
                return self.product(func, *args, **kwargs)
            if func is scaled_dot_product_attention:
                if self.fused:
                    return attention_steps(functools.partial(self.product, torch.matmul), *args, **kwargs)
                return self.product(func, *args, **kwargs)
        return func(*args, **kwargs)


def attention_steps(
    product: Multiply,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """What ``torch.nn.functional.scaled_dot_product_attention`` computes, with two calls of ``product``."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = product(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return product(torch.dropout(scores.softmax(-1), dropout_p, dropout_p > 0), value)


class InterceptedAttention(AttentionProducts):
    """The base class that :func:`intercepted` puts before a library's attention class."""

    # The attribute of each product in the order of calls; None stays FP.
    _calls: tuple[str | None, ...]
    _host: ClassVar[type[nn.Module]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The library's forward, with quantized products."""
        calls = iter(self._calls)

        def product(multiply: Multiply, a: Tensor, b: Tensor) -> Tensor:
            key = next(calls, "")
            if key == "":
                raise PSAQError(self._disagreement("more"))
            if key is None:
                return multiply(a, b)
            quantized: QuantMatMul = getattr(self, key)
            return self.weighted(quantized, a, b) if key == self._calls[-1] else quantized(a, b)

        with Intercept(product, fused=True):
            result = super().forward(*args, **kwargs)
        if next(calls, "") != "":
            raise PSAQError(self._disagreement("fewer"))
        return result

    def _disagreement(self, than: str) -> str:
        return (
            f"{type(self).__name__} computes {than} matrix products than its adapter declares ({len(self._calls)}): "
            "correct the adapter"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # By the library's class, which pickle finds by name; the quantized one is made at run time.
        return _blank, (type(self)._host, type(self).__bases__[0]), self.__dict__


def _blank(host: Any, base: Any = InterceptedAttention) -> nn.Module:
    cls = _subclass(host, base)
    return cls.__new__(cls)


@functools.cache
def _subclass(host: Any, base: Any) -> type[nn.Module]:
    """The class that stands for a library's attention class once it is quantized; one for each."""
    name, text = f"Quant{host.__name__}", f"``{host.__module__}.{host.__name__}``, quantized."
    return type(name, (base, host), {"_host": host, "__module__": __name__, "__doc__": text})


def intercepted(
    *projections: str,
    calls: tuple[str | None, ...] = ("qk", "av"),
    normalised: bool = False,
    softmax: bool = True,
    pooled: bool = False,
    base: Any = InterceptedAttention,
) -> Factory:
    """The quantized form of an attention class that keeps its library's forward.

    Args:
        *projections: The attributes of the layers that compute q, k and v, which must be called as layers, or of
            modules around one layer, such as a Linear and its norm. The first is the layer that a block takes to be
            behind the norm before the attention. Schemes other than ``deploy`` quantize the outputs of all layers of
            the attention.
        calls: A name for each matrix product in the forward, in the order of calls, None for one that stays FP. The
            last is the product of the softmax output and v, the last but one among the named that of q and k. torch's
            ``scaled_dot_product_attention`` counts as two. A name must not be an attribute of the class.
        normalised: Whether q and k are changed between the projections and their product: by norms, rotary position
            embeddings or pooling.
        softmax: Whether the left operand of the last product is a softmax output.
        pooled: Whether v, too, is changed between its projection and its product.
        base: The class that stands before the library's: a subclass of :class:`InterceptedAttention` for forms that
            change more than the products.

    Returns:
        A factory for :attr:`.declaration.Adapter.attentions`.
    """
    first, second = (key for key in calls if key is not None)

    def quantize(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
        # The projections first: a block takes the first layer for the one behind its norm.
        for key in dict.fromkeys((*projections, *module._modules)):
            if key in module._modules:
                module._modules[key] = module._modules.pop(key)
        for key, child in module.named_children():
            setattr(module, key, convert_child(child, f"{name}.{key}", policy))
        for key, layer in module.named_modules():
            if isinstance(layer, QuantizedLayer):
                add_output_quantizer(layer, f"{name}.{key}", policy)
        parameters = [key for key, value in module._parameters.items() if value is not None]
        noted = getattr(module, "fp_notes", {})
        host: Any = type(module)
        module.__class__ = _subclass(host, base)
        module._calls = calls
        first_layers = [one for key in projections[:1] for one in getattr(module, key).modules()]
        output = next((one.output_quantizer for one in first_layers if isinstance(one, QuantizedLayer)), None)
        module.add_products(name, policy, ", ".join(projections), output, normalised, softmax, (first, second), pooled)
        module.fp_notes |= dict.fromkeys(parameters, "parameters of an attention itself stay FP") | noted
        if None in calls:
            module.fp_notes["other_products"] = "products with position tables stay FP"
        return module

    return quantize


def heads_first(merged: Tensor) -> Tensor:
    """``softmax(..) v`` of an attention as ``(b, n, d)``: the mean over heads of ``(b, heads, n, d)``."""
    return merged.mean(1) if merged.dim() == 4 else merged


def channels_first(merged: Tensor) -> Tensor:
    """The same of an attention among channels, ``(b, heads, d, n)``."""
    return heads_first(merged.transpose(-2, -1))


class _Tapped:
    """Runs a module's forward under an :class:`Intercept` until it is removed; used like the handle of a hook."""

    def __init__(self, module: nn.Module, around: Callable[[], TorchFunctionMode]) -> None:
        self.module = module
        own = type(module).forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with around():
                return own(module, *args, **kwargs)

        module.forward = forward

    def remove(self) -> None:
        self.module.__dict__.pop("forward", None)


def tap_products(
    calls: int = 2,
    tokens: Callable[[Tensor], Tensor] = heads_first,
    prefixed: bool = True,
) -> Tap:
    """A tap on the result of an attention's last product.

    Args:
        calls: How many products the forward computes; ``scaled_dot_product_attention`` counts as two.
        tokens: Turns that result into tokens, ``(b, n, d)``, where b may be images times groups (windows).
        prefixed: Whether class tokens and registers, which the model may have, stand before the patches in it.

    Returns:
        A tap for :attr:`.declaration.Adapter.taps`.
    """

    def tap(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
        before = prefix if prefixed else 0

        def around() -> TorchFunctionMode:
            done = 0

            def product(multiply: Multiply, *operands: Tensor, **options: Any) -> Tensor:
                nonlocal done
                result = multiply(*operands, **options)
                done += 2 if multiply is scaled_dot_product_attention else 1
                if done == calls:
                    found = tokens(result).unsqueeze(1)[:, :, max(before - 1, 0) :]
                    # attention of a class token alone has no patches
                    if found.shape[2] > before + 1:
                        sink(AttentionTokens(found, layer=name, has_class_token=before > 0))
                return result

            return Intercept(product, fused=False)

        return [_Tapped(module, around)]

    return tap
