"""Models in memory in the form that the adapters expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models import backbone_of, classifier_overrides, quantize_in_place, without_checkpointing


class Normalization(nn.Module):
    """Mean and standard deviation of RGB pixels in [0, 1], in the form of OpenMMLab's data preprocessors.

    Args:
        mean: One value a channel.
        std: One value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.to_rgb = True
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)


class TimmModel(nn.Module):
    """Wraps a timm model as the adapters expect a classifier, with its body in ``model`` and a ``data_preprocessor``.

    Args:
        model: A timm model; its ``pretrained_cfg`` gives mean and standard deviation of pixels in [0, 1]. ImageNet's
            are used if it gives none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        described = getattr(model, "pretrained_cfg", None) or {}
        mean = described.get("mean") or (0.485, 0.456, 0.406)
        self.data_preprocessor = Normalization(mean, described.get("std") or (0.229, 0.224, 0.225))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(images, classes)``."""
        return self.model(images)


def as_teacher(model: nn.Module) -> nn.Module:
    """A model in the form that the adapters expect, frozen, in eval mode.

    Raises:
        UsageError: The model is not a timm model and has no ``backbone``.
    """
    if type(model).__module__.startswith("timm."):
        model = TimmModel(model)
    elif not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UsageError(
            f"{type(model).__name__} has no backbone and is not a timm model: give a detector, a segmentor or a "
            "classifier of OpenMMLab, or a timm model"
        )
    model.eval()
    model.requires_grad_(False)
    without_checkpointing(model)
    return model


def quantize_body(student: nn.Module, quantization: dict[str, Any]) -> nn.Module:
    """Quantize the backbone of a teacher's copy in place; a timm model is quantized except for its classifier layer.

    Args:
        student: A copy of the teacher.
        quantization: The keys of the policy; for timm models, overrides for the classifier layer are added.

    Returns:
        The model without the wrapper that :func:`as_teacher` put around it.
    """
    name, part = backbone_of(student)
    student.requires_grad_(True)
    if not isinstance(student, TimmModel):
        quantize_in_place(part, quantization, prefix=name)
        return student
    quantization["overrides"] = [*classifier_overrides(part, name), *quantization.get("overrides", ())]
    quantize_in_place(part, quantization, prefix=name)
    return part
