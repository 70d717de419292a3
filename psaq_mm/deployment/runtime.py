"""Modules that run exported files, so that the hosts' tools evaluate and use the deployed model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import ExportError, UsageError
from ..models.hosts import host_class
from ..registry import MODELS
from .engines import Session, open_session
from .parts import HEAD, nest


def open_sessions(file: str | Sequence[str], engine: str, threads: int | None) -> list[Session]:
    """Load one file or several, in order of their image size."""
    files = [Path(one) for one in ([file] if isinstance(file, str) else file)]
    sessions = [open_session(engine, one, threads) for one in files]
    return sorted(sessions, key=lambda session: session.shape[2] * session.shape[3])


@MODELS.register_module()
class RuntimeBackbone(BaseModule):
    """Runs the part of a model that computes on whole images in an engine on the CPU: backbone, neck and dense heads.

    Exported files have a fixed input size. Images are padded with zeros at the bottom and the right to the smallest
    exported size that is large enough, and the feature maps are cropped. As with padding in a batch of a detector, the
    last rows and columns of the maps depend on the padding. A plain transformer (ViT) attends to the padding from all
    positions: export it with the size of its images.

    If the file contains a dense head, the last output is that of the head, which :func:`RuntimeHead` hands on.

    Args:
        file: Path of the exported file, or of several with different sizes.
        engine: ``'onnxruntime'`` or ``'openvino'``.
        threads: Number of threads; None for the engine's default.
        init_cfg: Ignored; accepted because the hosts' tools may set it.

    Raises:
        ExportError: A file or the engine is missing, or the engine cannot read the file.
    """

    def __init__(
        self,
        file: str | list[str],
        engine: str = "onnxruntime",
        threads: int | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sessions = open_sessions(file, engine, threads)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Compute the outputs of the exported model.

        Args:
            images: ``(images, channels, H, W)``, normalised; any number of images.

        Returns:
            The outputs; feature maps are cropped to ``ceil(H / stride)`` by ``ceil(W / stride)``. The output of a dense
            head is the last element, nested as the head's.

        Raises:
            ExportError: The images are larger than every exported size.
        """
        session = self.session_for(images.shape[2], images.shape[3])
        batch, (height, width) = session.shape[0] or len(images), session.shape[2:]
        padded = np.zeros((math.ceil(len(images) / batch) * batch, images.shape[1], height, width), np.float32)
        padded[: len(images), :, : images.shape[2], : images.shape[3]] = images.float().cpu().numpy()
        parts = [session.run(padded[start : start + batch]) for start in range(0, len(padded), batch)]
        outputs = {}
        for name, arrays in zip(session.outputs, zip(*parts, strict=True), strict=True):
            output = torch.from_numpy(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))[: len(images)]
            if output.dim() == 4:
                rows, columns = (
                    math.ceil(own * mapped / whole)
                    for own, mapped, whole in zip(images.shape[2:], output.shape[2:], (height, width), strict=True)
                )
                # Contiguous, because mmcv's RoIAlign on the CPU reads memory as if its input were.
                output = output[:, :, :rows, :columns].contiguous()
            outputs[name] = output.to(images.device)
        features = tuple(output for name, output in outputs.items() if name.partition(".")[0] != HEAD)
        head = nest(HEAD, outputs)
        return features if isinstance(head, list) and not head else (*features, head)

    def session_for(self, height: int, width: int) -> Session:
        """The session with the smallest exported size that is large enough.

        Raises:
            ExportError: No exported size is large enough.
        """
        for session in self.sessions:
            if height <= session.shape[2] and width <= session.shape[3]:
                return session
        sizes = ", ".join(f"{session.shape[2]}x{session.shape[3]}" for session in self.sessions)
        raise ExportError(
            f"images of {height}x{width} are larger than the exported sizes ({sizes}): export a larger size"
        )


@MODELS.register_module()
def RuntimeHead(  # noqa: N802
    *, host: str, file: str | None = None, engine: str = "onnxruntime", threads: int | None = None, **head: Any
) -> nn.Module:
    """Build a host's head whose forward takes its results from an exported file.

    The result is an object of a subclass of the host's class, so that the host's own code selects boxes, applies
    softmax and resizes masks; its layers are removed.

    Args:
        host: The host's type with its scope, e.g. ``'mmdet.RPNHead'``.
        file: The exported file of a head on RoI features; None for a dense head, whose results
            :class:`RuntimeBackbone` computes.
        engine: ``'onnxruntime'`` or ``'openvino'``.
        threads: Number of threads; None for the engine's default.
        **head: The host's own arguments.

    Raises:
        UsageError: The host has no such class.
        ExportError: A file or the engine is missing, or the engine cannot read the file.
    """
    cls = host_class(host)
    if cls is None:
        raise UsageError(f"no head is called {host}: export the model anew with the libraries of this environment")
    checked: Any = cls
    built: Any = runtime_class(checked)(**head)
    remove_layers(built)
    built.session = None if file is None else open_session(engine, Path(file), threads)
    return built


@functools.cache
def runtime_class(host: Any) -> Any:
    """The subclass of a host's head whose forward runs a session or hands on what the backbone computed."""

    class Runtime(host):
        session: Session | None

        @torch.no_grad()
        def forward(self, x: Any, *others: Any) -> Any:
            if self.session is None:
                return x[-1]
            return run_rois(self.session, x)

    Runtime.__name__ = Runtime.__qualname__ = f"Runtime{host.__name__}"
    return Runtime


def run_rois(session: Session, features: Tensor) -> Any:
    """The outputs of an exported head on RoI features ``(rois, channels, h, w)``; any number of RoIs, also none."""
    if len(features):
        arrays = session.run(np.ascontiguousarray(features.float().cpu().numpy()))
    else:
        arrays = [np.zeros((0, *[side or 0 for side in shape[1:]]), np.float32) for shape in session.outputs.values()]
    outputs = zip(session.outputs, arrays, strict=True)
    return nest(HEAD, {name: torch.from_numpy(array).to(features.device) for name, array in outputs})


def remove_layers(head: nn.Module) -> None:
    """Remove the parameters of a head and its children that have any; constants that its results need stay."""
    layers = layers_of(head)
    head._parameters.clear()
    for name in layers:
        if name in head._modules:
            head._modules[name] = nn.Identity()


def layers_of(head: nn.Module) -> set[str]:
    """Names of a head's children that have parameters, and of its own parameters."""
    return {name.partition(".")[0] for name, _ in head.named_parameters()}
