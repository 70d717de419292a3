"""Files of a quantized model without a config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..errors import PSAQError, UsageError
from ..models.former import forms_of
from ..quantization import check_calibrated
from ..utils.atomic_files import save_tensors
from .models import as_teacher, quantize_body


def save_model(model: nn.Module, quantization: dict[str, Any], folder: Path) -> None:
    """Write ``quantized.pth``: the weights, the policy and the architecture, as :func:`load_model` reads them."""
    meta: dict[str, Any] = {"psaq_mm": {**quantization, "scope": "backbone"}}
    described = getattr(model, "pretrained_cfg", None) or {}
    if type(model).__module__.startswith("timm.") and described.get("architecture"):
        meta["timm"] = {"model_name": described["architecture"], "num_classes": getattr(model, "num_classes", 1000)}
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if size:
            meta["timm"]["img_size"] = list(size)
    plain = Config({"meta": meta}).to_dict()["meta"]
    save_tensors({"meta": plain, "state_dict": model.state_dict()}, folder / "quantized.pth")


def load_model(folder: Path, model: nn.Module | None = None) -> nn.Module:
    """Load a model that :func:`save_model` wrote.

    Args:
        folder: The folder of ``quantized.pth``.
        model: A float model of the same architecture; None if timm can create it by name.

    Returns:
        The quantized model in eval mode.

    Raises:
        UsageError: No model is given, and the file names none of timm.
        PSAQError: The file cannot be read, or the weights do not fit.
    """
    path = folder / "quantized.pth"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        meta, state = saved["meta"], saved["state_dict"]
        quantization = {key: value for key, value in meta["psaq_mm"].items() if key != "scope"}
    except Exception as error:
        raise PSAQError(f"{path} cannot be read ({type(error).__name__}): save the model again") from None
    if model is None and "timm" not in meta:
        raise UsageError(f"{path} does not name its architecture: give load() a float model of it")
    if model is None:
        import timm

        model = timm.create_model(**meta["timm"])
    student = as_teacher(copy.deepcopy(model))
    heads = [one for one in quantization["overrides"] if not one.get("keep_fp")]
    with forms_of(quantization):
        body = quantize_body(student, {**quantization, "overrides": heads})
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise PSAQError(f"{path} belongs to another model than {type(model).__name__}: {reason}") from None
    body.eval()
    check_calibrated(body)
    return body
