"""Taps on a float model's attention: patch tokens for the similarity entropy, without a change of its forward.

A tap reads the input of an attention's output projection, which is ``attn @ v`` with the heads side by side, by
forward hooks. The model's modules and its fast attention kernels stay as they are. (torch's own attention never calls
its projection: there the tap computes the forward itself, see ``torch_attention``.)
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError
from ...generation import AttentionTokens
from .declaration import TAPS, UNPREFIXED, Tap


def prefix_tokens(model: nn.Module, name: str) -> int:
    """How many tokens (class, distillation, registers) precede the patches in the input of the module ``name``.

    The number is an attribute of a module around the attention; the innermost module that has one counts.
    """
    parents: list[Any] = [model]
    for part in name.split(".")[:-1]:
        if part in (UNPREFIXED.of(type(parents[-1])) or ()):
            return 0
        parents.append(getattr(parents[-1], part))
    for parent in reversed(parents):
        # timm's name for it, mmpretrain's, mmseg's (which keeps the parameter where it drops the token)
        for key in ("num_prefix_tokens", "num_extra_tokens", "with_cls_token"):
            if isinstance(getattr(parent, key, None), int):
                return int(getattr(parent, key))
        if isinstance(getattr(parent, "cls_token", None), Tensor):
            return _count(parent.cls_token)
        # one for each scale: cls_token_0 of timm's CrossViT, cls_token1 of its CoaT
        scales = [one for key, one in parent.named_parameters(recurse=False) if key.startswith("cls_token")]
        if scales:
            return _count(scales[0])
    return 0


def _count(token: Tensor) -> int:
    """How many tokens a parameter ``(1, n, c)``, ``(1, c)`` or ``(c,)`` is."""
    return token.shape[1] if token.dim() == 3 else 1


def head_mean(tokens: Tensor, images: int, heads: int) -> Tensor:
    """The mean over heads: ``(images * groups, n, heads * d) -> (images, groups, n, d)``."""
    _, count, width = tokens.shape
    return tokens.reshape(images, -1, count, heads, width // heads).mean(3)


def sequence_tokens(merged: Tensor, heads: int, name: str, prefix: int) -> AttentionTokens:
    """The tokens of a global attention.

    Args:
        merged: ``(images, n, heads * d)``.
        heads: How many heads.
        name: The layer.
        prefix: How many tokens precede the patches. Only the last of them is handed on, as class token: the
            entropy leaves out one token.
    """
    tokens = head_mean(merged, merged.shape[0], heads)[:, :, max(prefix - 1, 0) :]
    return AttentionTokens(tokens, layer=name, has_class_token=prefix > 0)


def first_images(value: Any) -> Tensor | None:
    """The first tensor ``(b, c, h, w)`` of floats in nested tuples, lists and dictionaries; None without one."""
    if isinstance(value, Tensor):
        return value if value.dim() == 4 and value.is_floating_point() else None
    if isinstance(value, dict):
        value = tuple(value.values())
    found = map(first_images, value) if isinstance(value, (tuple, list)) else ()
    return next((one for one in found if one is not None), None)


class _Watched:
    """Calls a function before a method of a module; used like the handle of a hook.

    timm's ``forward_features`` is called without the module's hooks.
    """

    def __init__(self, module: Any, method: str, before: Callable[[nn.Module, tuple, dict[str, Any]], None]) -> None:
        self._module, self._method = module, method
        original = getattr(module, method)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before(module, args, kwargs)
            return original(*args, **kwargs)

        setattr(module, method, watched)

    def remove(self) -> None:
        """Let the class's method count again."""
        self._module.__dict__.pop(self._method, None)


class Taps(ABC):
    """Collects the patch tokens of a model's forward passes, in the order of execution.

    Args:
        model: The float model or backbone.

    Attributes:
        images: How many images the current pass is of.
        aspect: Their height divided by their width.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tokens: list[AttentionTokens] = []
        self._handles: list[Any] = []
        self._model: Any = model
        self._stem = next((one for one in model.modules() if isinstance(one, nn.Conv2d)), None)
        # whether the images were seen as an argument of the model, which is surer than what a layer in it gets
        self._seen = False
        self.images, self.aspect = 0, 1.0

    @abstractmethod
    def attach(self) -> Iterator[Any]:
        """Attach hooks that call :meth:`add`, and give their handles."""

    def add(self, tokens: AttentionTokens) -> None:
        """Keep the tokens of a layer; groups that count as images are told apart by the number of images."""
        found = tokens.tokens
        # windows, or attention among the pixels of each patch (TNT)
        if self.images and len(found) > self.images and found.shape[1] == 1:
            tokens = replace(tokens, tokens=found.reshape(self.images, -1, *found.shape[2:]))
        self._tokens.append(tokens)

    def __enter__(self) -> Taps:
        # Taps of windows do not know how many images theirs are of. The model's own arguments tell; the first
        # convolution's count where the model is run by a method of another name (``extract_feat``).
        self._handles.append(self._model.register_forward_pre_hook(self._measure, with_kwargs=True))
        if hasattr(self._model, "forward_features"):
            self._handles.append(_Watched(self._model, "forward_features", self._measure))
        if self._stem is not None and self._stem is not self._model:
            self._handles.append(self._stem.register_forward_pre_hook(self._measure, with_kwargs=True))
        self._handles += self.attach()
        return self

    def _measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._seen and module is not self._model:
            return
        images = first_images((args, kwargs))
        if images is not None:
            self._seen = self._seen or module is self._model
            self.images, self.aspect = len(images), images.shape[-2] / images.shape[-1]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._tokens.clear()

    def take(self) -> list[AttentionTokens]:
        """The tokens of all forward passes since the last call; they are then forgotten here."""
        tokens, self._tokens[:] = list(self._tokens), []
        return tokens


class AttentionTaps(Taps):
    """Taps on every supported attention in a model.

    Example::

        with AttentionTaps(model.backbone) as taps:
            model.backbone(images)
            loss = entropy(taps.take())

    Args:
        model: The float model or backbone.
        name: How messages refer to it.

    Raises:
        UsageError: The model has no attention of a supported class.
    """

    def __init__(self, model: nn.Module, name: str = "backbone") -> None:
        super().__init__(model)
        self._sites: list[tuple[Tap, nn.Module, str, int]] = []
        for key, module in model.named_modules():
            tap = TAPS.of(type(module))
            # a library's attention may contain torch's, which its own tap covers
            inside = any(key.startswith(f"{outer}.") for _, _, outer, _ in self._sites[-1:])
            if tap is not None and not inside:
                self._sites.append((tap, module, key, prefix_tokens(model, key)))
        if not self._sites:
            names = {f"{one.partition('.')[0]}'s {one.rpartition('.')[2]}" for one in TAPS.values}
            raise UsageError(
                f"{name} {type(model).__name__} has no supported attention, which image generation needs: "
                f"supported are {', '.join(sorted(names))}"
            )

    def attach(self) -> Iterator[Any]:
        """See base class."""
        for tap, module, name, prefix in self._sites:
            yield from tap(module, name, self.add, prefix)
