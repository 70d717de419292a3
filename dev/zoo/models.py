"""Float models of configs: built without downloads, with random weights of a seed, and run on an image of noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from psaq_mm.errors import UsageError
from psaq_mm.models import backbone_of, check_image_size, without_downloads
from psaq_mm.models.hosts import kinds_of
from psaq_mm.models.hosts.repairs import repair_hosts

from .samples import test_data

# Random initial values, which are replaced anyway; constants of norms and biases stay.
DRAWN = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_")
DRAWN += ("kaiming_normal_", "orthogonal_", "sparse_")
BERT = "bert-base-uncased"
LARGEST = 100.0
# Boxes by center and size, which init_weights sets to those of the whole image; drawn ones may have negative sizes.
BOXES = "init_proposal_bboxes"
BOX_COUNTS, BOX_LIMIT = ("nms_pre", "max_per_img"), 20
# Errors that another size of the image does not change.
FINAL = (ImportError, NotImplementedError, NameError, MemoryError)


@contextlib.contextmanager
def without_initialization() -> Iterator[None]:
    """Leave random initial weights out, which takes most of the time of building; memory not written to holds NaN."""
    kept = {name: getattr(nn.init, name) for name in DRAWN}
    try:
        for name in DRAWN:
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        torch.use_deterministic_algorithms(True, warn_only=True)  # which fills new memory
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        for name, function in kept.items():
            setattr(nn.init, name, function)


def draw_weights(model: nn.Module, seed: int = 0) -> None:
    """Fill matrices, and what building left without values, with random numbers; variances stay about the same."""
    generator = torch.Generator().manual_seed(seed)
    matrices = {
        id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if BOXES in name:
                parameter.fill_(0.5)
            elif id(parameter) in matrices:
                parameter.normal_(0, max(parameter[0].numel(), 1) ** -0.5, generator=generator)
            elif not bool(torch.isfinite(parameter).all()) or float(parameter.abs().max()) > LARGEST:
                parameter.normal_(0, 0.02, generator=generator)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer[torch.isnan(buffer)] = 0  # infinity is a mask's


def build_float(cfg: Config) -> nn.Module:
    """Build the float model of a config with random weights, in eval mode.

    Raises:
        Exception: Whatever the library raises.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    repair_hosts()
    with without_initialization():
        model = MODELS.build(float_config(cfg))
    draw_weights(model)
    model.eval()
    return model


def float_config(cfg: Config) -> ConfigDict:
    """The config of the model as the package builds it: no downloads, and with the preprocessor that stands beside."""
    described = without_downloads(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        described.setdefault("data_preprocessor", cfg.data_preprocessor)
    return described


def without_addresses(part: Any) -> None:
    """Remove the addresses of checkpoints that a model would load while it is built, such as a second teacher's."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key.endswith(("ckpt", "checkpoint")) and "://" in str(value):
                part[key] = None
        part = list(part.values())
    for one in part if isinstance(part, (list, tuple)) else ():
        without_addresses(one)


def with_few_boxes(part: Any) -> None:
    """Lower the numbers of boxes in ``test_cfg``: scores of random weights are alike, so that many pass thresholds.

    A detector with a fixed number of proposals keeps all of them, as QueryInst's masks need it.
    """
    if isinstance(part, dict):
        if (part.get("rpn_head") or {}).get("num_proposals"):
            return
        for key in BOX_COUNTS:
            if isinstance(part.get(key), int) and part[key] > BOX_LIMIT:
                part[key] = BOX_LIMIT
        part = list(part.values())
    for one in part if isinstance(part, (list, tuple)) else ():
        with_few_boxes(one)


def with_language_model(part: Any, folder: Path) -> None:
    """Replace the name of the language model that configs of detectors download by a folder."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if value == BERT:
            part[key] = str(folder)
        else:
            with_language_model(value, folder)


@torch.no_grad()
def infer(model: nn.Module, library: str, size: tuple[int, int], channels: int) -> str:
    """Compute one image of noise by the model's own ``test_step``, or by its features where it has no predictions.

    Args:
        model: The float or the quantized model.
        library: The library of its class.
        size: Height and width.
        channels: Number of channels.

    Returns:
        ``'predictions'``, or ``'features'`` for models of pre-training and classifiers without a head.

    Raises:
        Exception: Whatever the library raises.
    """
    torch.manual_seed(0)  # random masks of pre-training
    headless = "mmpretrain.ImageClassifier" in kinds_of(model) and getattr(model, "head", None) is None
    if headless or "mmpretrain.BaseSelfSupervisor" in kinds_of(model):
        model(torch.randn(1, channels, *size), mode="tensor")
        return "features"
    model.test_step(test_data(model, library, size, channels))
    return "predictions"


def fitting_size(
    model: nn.Module, sizes: list[tuple[int, int]], library: str, channels: int
) -> tuple[tuple[int, int], str]:
    """The first size of images that the float model and the package's checks take, and how the model was inferred.

    Where the checks refuse all sizes that the model takes, the smallest of these.

    Args:
        model: The float model.
        sizes: The sizes to try, at least one.
        library: The library of its class.
        channels: Number of channels.

    Raises:
        Exception: The error of the library at the last size.
    """
    taken: list[tuple[tuple[int, int], str]] = []
    last: Exception | None = None
    for size in sizes:
        try:
            how = infer(model, library, size, channels)
        except Exception as error:  # libraries raise errors of any kind for a wrong size
            last = error
            if isinstance(error, FINAL):
                break
            continue
        taken.append((size, how))
        with contextlib.suppress(UsageError):
            check_image_size(backbone_of(model)[1], size)
            return size, how
    if taken:
        return taken[0]
    assert last is not None
    raise last


def relative_error(outputs: list[Tensor], references: list[Tensor]) -> float:
    """``||q - f|| / ||f||`` over all outputs of a backbone together."""
    pairs = [(one.double(), other.double()) for one, other in zip(outputs, references, strict=True)]
    error = sum(float((one - other).square().sum()) for one, other in pairs)
    scale = sum(float(other.square().sum()) for _, other in pairs)
    return (error / scale) ** 0.5 if scale else 0.0
