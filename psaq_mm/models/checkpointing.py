"""Activation checkpointing of the hosts, which is for their training, switched off."""

from __future__ import annotations

from torch import nn

# What OpenMMLab's modules, timm's and those of Microsoft and Hugging Face call it.
FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing")


def without_checkpointing(model: nn.Module) -> list[str]:
    """Make a model keep its activations instead of computing them again in the backward pass.

    Checkpointing changes no output, but what hooks see: re-entrant checkpointing runs a block without gradients, so
    tokens that are read inside carry none, and the other kind runs the hooks a second time in the backward pass. Where
    memory is short, images pass in smaller batches instead.

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
