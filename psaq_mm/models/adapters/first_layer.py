"""The layer that reads the image, which a policy may give a precision of its own."""

from __future__ import annotations

from torch import nn

from ...quantization.convert import join
from .declaration import PATCH_EMBEDS

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def first_layer(backbone: nn.Module) -> str | None:
    """The name of the module in a backbone that makes tokens of the image, or of its first layer.

    Args:
        backbone: The float backbone.

    Returns:
        The name of the first module that an adapter declares as a patch embedding, else of the first Conv or Linear in
        the order of registration; None for a backbone without layers.

    Example: ``'patch_embed'`` for a Swin, ``'conv1'`` for a ResNet.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, LAYERS) or PATCH_EMBEDS.match(type(module)):
            return name
    return None


def first_layer_of(model: nn.Module, prefix: str) -> str | None:
    """The same for a whole model, where its backbone is a child of the usual name, or for a backbone.

    Args:
        model: A model, or the backbone whose name in it is ``prefix``.
        prefix: The name, empty for a whole model.

    Returns:
        The name in the whole model.
    """
    if prefix:
        name = first_layer(model)
        return None if name is None else join(prefix, name)
    for key in ("backbone", "model"):
        part = getattr(model, key, None)
        if isinstance(part, nn.Module):
            return first_layer_of(part, key)
    return first_layer(model)
