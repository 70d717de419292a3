"""Activation checkpointing of the hosts, which is for their training, switched off."""

from __future__ import annotations

from torch import nn

# Its attribute in modules of OpenMMLab, timm, Microsoft and Hugging Face.
FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing")


def without_checkpointing(model: nn.Module) -> list[str]:
    """Make a model keep its activations instead of computing them again in the backward pass.

    Checkpointing changes no output, but it changes what hooks get: re-entrant checkpointing runs a block without
    gradients, so that tokens read inside have none, and the other kind runs the hooks a second time in the backward
    pass. Memory is limited by smaller batches instead.

    Args:
        model: Changed in place.

    Returns:
        The names of the modules that used it.
    """
    found = []
    for name, module in model.named_modules():
        for flag in FLAGS:
            if getattr(module, flag, False) is True:
                setattr(module, flag, False)
                found.append(name)
    return found
