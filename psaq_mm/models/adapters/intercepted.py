"""Attention that keeps its library's forward: products are taken over while it runs.

Most attention classes differ in everything but two matrix products: in how q, k and v are made, in position biases,
masks, pooling and what follows. Their quantized form and their tap therefore run the library's own ``forward``, and
take over the products in it, in the order of their calls.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ...errors import PSAQError
from ...quantization import QuantizedLayer, QuantMatMul, QuantPolicy, convert_child
from ...quantization.convert import Factory
from .conversion import convert_with_output
from .products import AttentionProducts, output_quantizer

Multiply = Callable[..., Tensor]
# The attribute of each product in the order of calls, None for one that stays FP; or a function of the module.
Calls = tuple[str | None, ...]
PRODUCTS = frozenset(
    (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__)  # type: ignore[attr-defined]
)
CONSTANT = "does not depend on the image: engines compute it once, in FP"
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
                    return attention_steps(functools.partial(self.product, step), *args, **kwargs)
                return self.product(func, *args, **kwargs)
        return func(*args, **kwargs)


def step(a: Tensor, b: Tensor) -> Tensor:
    """A product of torch's fused attention, whose second one has the softmax output on the left in all libraries."""
    return torch.matmul(a, b)


def attention_steps(
    product: Multiply,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What ``torch.nn.functional.scaled_dot_product_attention`` computes, with two calls of ``product``.

    A row whose keys are all masked gives 0, as in torch. Exported files check only boolean masks for such rows: masks
    of numbers are mostly position biases, which have none.
    """
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = product(query * scale, key.transpose(-2, -1))
    blank = None
    if is_causal:
        # the first key is open to every row
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        blank = ~attn_mask.any(-1, keepdim=True)
        # a softmax of nothing but -inf would be NaN, in its gradient too
        scores = scores.masked_fill(~(attn_mask | blank), -torch.inf)
    elif attn_mask is not None:
        if not torch.compiler.is_exporting():
            blank = (attn_mask == -torch.inf).all(-1, keepdim=True)
            attn_mask = attn_mask.masked_fill(blank, 0)
        scores = scores + attn_mask
    result = product(torch.dropout(scores.softmax(-1), dropout_p, dropout_p > 0), value)
    return result if blank is None else result.masked_fill(blank, 0)


class InterceptedAttention(AttentionProducts):
    """The base class that :func:`intercepted` puts before a library's attention class."""

    _calls: Calls
    _transposed: bool
    _caches: tuple[str, ...]
    _host: ClassVar[type[nn.Module]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The library's forward, with quantized products."""
        calls = iter(self._calls)
        weighted = {second for _, second in pairs(self._calls)}

        def product(multiply: Multiply, a: Tensor, b: Tensor) -> Tensor:
            key = next(calls, "")
            if key == "":
                raise PSAQError(self._disagreement("more"))
            if key is None:
                return multiply(a, b)
            quantized: QuantMatMul = getattr(self, key)
            if key not in weighted:
                return quantized(a, b)
            if self._transposed and multiply is not step:
                # as contiguous as a product is, for views of it
                return self.weighted(quantized, b.mT, a.mT).mT.contiguous()
            return self.weighted(quantized, a, b)

        self._forget()
        try:
            with Intercept(product, fused=True):
                result = super().forward(*args, **kwargs)
        finally:
            self._forget()
        if next(calls, "") != "":
            raise PSAQError(self._disagreement("fewer"))
        return result

    def _forget(self) -> None:
        # What is computed from a parameter must not outlive the parameter's value, nor the graph of its gradient.
        for key in self._caches:
            getattr(self, key).clear()

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


def pairs(calls: Calls) -> list[tuple[str, str]]:
    """The names of both products of each attention in a forward; most have one."""
    named = [key for key in calls if key is not None]
    return list(zip(named[::2], named[1::2], strict=True))


def intercepted(
    *projections: str,
    calls: Calls | Callable[[Any], Calls] = ("qk", "av"),
    normalised: bool = False,
    softmax: bool = True,
    transposed: bool = False,
    constants: tuple[str, ...] = (),
    caches: tuple[str, ...] = (),
    pooled: bool = False,
    base: Any = InterceptedAttention,
) -> Factory:
    """The quantized form of an attention class that keeps its library's forward.

    Args:
        *projections: The attributes of the layers that compute q, k and v, which must be called as layers; those that
            a module lacks are ignored. The first is the layer that a block takes to be behind the norm before the
            attention. Schemes other than ``deploy`` quantize the outputs of all layers of the attention.
        calls: A name for each matrix product in the forward, in the order of calls, None for one that stays FP; or a
            function that gives them for a module. Named are the product of q and k, then that of the softmax output
            and v, for each attention in turn. torch's ``scaled_dot_product_attention`` counts as two. A name must not
            be an attribute of the class.
        normalised: Whether q and k are changed between the projections and their product: by norms, rotary position
            embeddings or pooling.
        softmax: Whether an operand of the second product is a softmax output.
        transposed: Whether that operand is the right one, ``v^T a^T``, where torch's fused attention is not used.
        constants: Children whose outputs do not depend on the image, such as layers that compute a position bias.
            They stay FP, since engines compute them once.
        caches: Attributes of dictionaries in which the forward keeps what it computed from parameters. They are
            emptied before and after each pass.
        pooled: Whether v, too, is changed between its projection and its product.
        base: The class that stands before the library's: a subclass of :class:`InterceptedAttention` for forms that
            change more than the products.

    Returns:
        A factory for :attr:`.declaration.Adapter.attentions`.
    """

    def quantize(module: Any, name: str, policy: QuantPolicy) -> nn.Module:
        # The projections first: a block takes the first layer for the one behind its norm.
        for key in dict.fromkeys((*projections, *module._modules)):
            if key in module._modules:
                module._modules[key] = module._modules.pop(key)
        for key, child in module.named_children():
            if key in constants:
                _keep(child)
            else:
                setattr(module, key, _convert(child, f"{name}.{key}", policy))
        own = [key for key, value in module._parameters.items() if value is not None]
        noted = getattr(module, "fp_notes", {})
        host: Any = type(module)
        module.__class__ = _subclass(host, base)
        module._calls = calls(module) if callable(calls) else calls
        module._transposed, module._caches = transposed, caches
        used = [key for key in projections if getattr(module, key, None) is not None]
        output = output_quantizer(_last_layer(getattr(module, used[0]))) if used else None
        for keys in pairs(module._calls):
            # The first product of some sums over tokens instead of channels.
            module.add_products(name, policy, ", ".join(used), output, normalised, softmax, keys, pooled, False)
        module.fp_notes |= dict.fromkeys(own, "parameters of an attention itself stay FP") | noted
        if None in module._calls:
            module.fp_notes["other_products"] = "products with position tables stay FP"
        return module

    return quantize


def _convert(child: nn.Module, name: str, policy: QuantPolicy) -> nn.Module:
    """Convert a child of an attention; schemes other than ``deploy`` quantize the outputs of the layers in it."""
    if isinstance(child, (nn.Linear, nn.Conv2d)):
        return convert_with_output(child, name, policy)
    converted = convert_child(child, name, policy)
    for path, layer in converted.named_modules():
        if isinstance(layer, QuantizedLayer):
            convert_with_output(layer, f"{name}.{path}", policy)
    for one in _without_form(converted):
        _note_parameters(one, "parameters of an attention stay FP")
    return converted


def _keep(child: nn.Module) -> None:
    """Note for a child that stays FP why it does."""
    for one in child.modules():
        _note_parameters(one, CONSTANT)
        if isinstance(one, (nn.Linear, nn.Conv2d)):
            noted: Any = one
            noted.fp_notes["input"] = CONSTANT


def _without_form(module: nn.Module) -> Iterator[nn.Module]:
    """The modules with parameters of their own for which the coverage report has no reason."""
    for one in module.modules():
        norm = isinstance(one, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm))
        if not norm and not isinstance(one, QuantizedLayer) and not hasattr(one, "fp_notes"):
            yield one


def _note_parameters(module: Any, reason: str) -> None:
    own = [key for key, value in module._parameters.items() if value is not None]
    if own:
        module.fp_notes = dict.fromkeys(own, reason)


def _last_layer(module: nn.Module) -> nn.Module:
    """The layer that computes a projection's output, which may stand in a container with its norm."""
    return [module, *(one for one in module.modules() if isinstance(one, QuantizedLayer))][-1]
