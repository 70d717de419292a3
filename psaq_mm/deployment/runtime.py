"""An exported file in the place of a backbone, so that the hosts' own tools evaluate what is deployed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor

from ..errors import ExportError
from ..registry import MODELS
from .engines import Session, open_session


@MODELS.register_module()
class RuntimeBackbone(BaseModule):
    """Runs an exported backbone (with or without neck) in an engine on the CPU.

    Files have fixed sizes. An image is padded with zeros, below and at its right, to the smallest exported size that
    holds it, as detectors pad images in a batch, and the maps are cut to the image: what a map's last row or column
    sees of the padding differs from the torch model by as much as batching does. A plain transformer attends to padding
    everywhere: export it in the size it is used in.

    Args:
        file: The exported file, or several of different sizes.
        engine: ``'onnxruntime'`` or ``'openvino'``.
        threads: Threads of the engine; None lets it choose.
        init_cfg: Ignored; the hosts' tools may set it.

    Raises:
        ExportError: A file or the engine is missing, or they do not fit.
    """

    def __init__(
        self,
        file: str | list[str],
        engine: str = "onnxruntime",
        threads: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        files = [Path(one) for one in ([file] if isinstance(file, str) else file)]
        sessions = [open_session(engine, one, threads) for one in files]
        self.sessions: list[Session] = sorted(sessions, key=lambda session: session.shape[2] * session.shape[3])

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of a batch of images of any number.

        Args:
            images: ``(images, 3, H, W)``, normalised.

        Returns:
            The exported outputs, maps cut to ``ceil(H / stride)`` by ``ceil(W / stride)``.

        Raises:
            ExportError: The images are larger than every exported size.
        """
        session = self.session_for(images.shape[2], images.shape[3])
        batch, channels, height, width = session.shape
        padded = np.zeros((math.ceil(len(images) / batch) * batch, channels, height, width), np.float32)
        padded[: len(images), :, : images.shape[2], : images.shape[3]] = images.float().cpu().numpy()
        parts = [session.run(padded[start : start + batch]) for start in range(0, len(padded), batch)]
        outputs = [torch.from_numpy(np.concatenate(level)[: len(images)]) for level in zip(*parts, strict=True)]
        for index, sides in enumerate(session.maps):
            if sides is not None:
                rows, columns = (
                    math.ceil(own * mapped / whole)
                    for own, mapped, whole in zip(images.shape[2:], sides, (height, width), strict=True)
                )
                outputs[index] = outputs[index][:, :, :rows, :columns]
        return tuple(output.to(images.device) for output in outputs)

    def session_for(self, height: int, width: int) -> Session:
        """The smallest exported size that holds the images."""
        for session in self.sessions:
            if height <= session.shape[2] and width <= session.shape[3]:
                return session
        sizes = ", ".join(f"{session.shape[2]}x{session.shape[3]}" for session in self.sessions)
        raise ExportError(f"images of {height}x{width} are larger than what was exported ({sizes}): export them larger")
