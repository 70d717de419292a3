"""A backbone that runs an exported file, so that the hosts' tools evaluate the deployed model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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

    Exported files have a fixed input size. Images are padded with zeros at the bottom and the right to the smallest
    exported size that is large enough, and the feature maps are cropped. As with padding in a batch of a detector, the
    last rows and columns of the maps depend on the padding. A plain transformer (ViT) attends to the padding from all
    positions: export it with the size of its images.

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
        files = [Path(one) for one in ([file] if isinstance(file, str) else file)]
        sessions = [open_session(engine, one, threads) for one in files]
        self.sessions: list[Session] = sorted(sessions, key=lambda session: session.shape[2] * session.shape[3])

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the exported model.

        Args:
            images: ``(images, channels, H, W)``, normalised; any number of images.

        Returns:
            The outputs; feature maps are cropped to ``ceil(H / stride)`` by ``ceil(W / stride)``.

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
