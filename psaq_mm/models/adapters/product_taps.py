"""Taps on attention that keeps its library's forward: they read the result of its last matrix product.

The forward runs under an :class:`.intercepted.Intercept`, which sees the products without a change of them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...generation import AttentionTokens
from .declaration import Sink, Tap
from .intercepted import Intercept, Multiply
from .taps import sequence_tokens


class OwnForward:
    """Gives a module a forward of its own until it is removed; used like the handle of a hook.

    Args:
        module: The module. An entry ``forward`` that it already has is set again on removal.
        forward: What calls of the module run.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self._before = module, vars(module).get("forward")
        vars(module)["forward"] = forward

    def remove(self) -> None:
        """Let the forward count again that the module had before."""
        vars(self.module).pop("forward", None)
        if self._before is not None:
            vars(self.module)["forward"] = self._before


def tap_steps(module: Any, steps: Any, projection: nn.Module, name: str, sink: Sink, prefix: int) -> list[Any]:
    """Tap an attention whose library never calls its output projection: while tapped, it computes step by step.

    Args:
        module: The float attention.
        steps: The same attention in steps, with the same parameters, whose forward takes the same arguments.
        projection: The output projection in ``steps``, whose input is ``softmax(..) v`` with the heads side by side.
        name: The layer.
        sink: Where the tokens go.
        prefix: How many tokens stand before the patches.
    """

    def collect(_: nn.Module, args: tuple) -> None:
        sink(sequence_tokens(args[0], module.num_heads, name, prefix))

    return [OwnForward(module, steps.forward), projection.register_forward_pre_hook(collect)]


def heads_first(merged: Tensor) -> Tensor:
    """``softmax(..) v`` of an attention as ``(b, n, d)``: the mean over heads of ``(b, heads, n, d)``."""
    return merged.mean(1) if merged.dim() == 4 else merged


def channels_first(merged: Tensor) -> Tensor:
    """The same of an attention among channels, ``(b, heads, d, n)``."""
    return heads_first(merged.transpose(-2, -1))


def heads_then_windows(merged: Tensor) -> Tensor:
    """``(b, heads, windows, n, d)`` as ``(b, windows, n, d)``, or as :func:`heads_first` where there are none."""
    return merged.mean(1)


def windows_then_heads(merged: Tensor) -> Tensor:
    """``(b, windows, heads, n, d)`` as ``(b, windows, n, d)``."""
    return merged.mean(2)


def tap_products(
    calls: int | Callable[[Any], int] = 2,
    tokens: Callable[[Tensor], Tensor] = heads_first,
    prefixed: bool = True,
    transposed: bool = False,
) -> Tap:
    """A tap on the result of an attention's last product.

    Args:
        calls: How many products the forward computes up to that one; ``scaled_dot_product_attention`` counts as two.
            Or a function that gives it for a module.
        tokens: Turns that result into tokens, ``(b, n, d)``, where b may be images times groups (windows), or
            ``(images, groups, n, d)``.
        prefixed: Whether class tokens and registers, which the model may have, stand before the patches in it.
        transposed: Whether it is ``v^T a^T`` where torch's fused attention is not used, see
            :func:`.intercepted.intercepted`.

    Returns:
        A tap for :attr:`.declaration.Adapter.taps`.
    """

    def tap(module: Any, name: str, sink: Sink, prefix: int) -> list[Any]:
        before = prefix if prefixed else 0
        count = calls(module) if callable(calls) else calls

        # an entry of the instance, such as a wrapper that another library has set, else the class's function
        wrapper, own = vars(module).get("forward"), type(module).forward

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            done = 0

            def product(multiply: Multiply, *operands: Tensor, **options: Any) -> Tensor:
                nonlocal done
                result = multiply(*operands, **options)
                fused = multiply is scaled_dot_product_attention
                done += 2 if fused else 1
                if done == count:
                    found = tokens(result.mT if transposed and not fused else result)
                    found = (found if found.dim() == 4 else found.unsqueeze(1))[:, :, max(before - 1, 0) :]
                    # attention of a class token alone has no patches
                    if found.shape[2] > before + 1:
                        sink(AttentionTokens(found, layer=name, has_class_token=before > 0))
                return result

            with Intercept(product, fused=False):
                return own(self, *args, **kwargs) if wrapper is None else wrapper(*args, **kwargs)

        # a method, so that a copy of the module computes with the copy's parameters
        return [OwnForward(module, MethodType(forward, module))]

    return tap
