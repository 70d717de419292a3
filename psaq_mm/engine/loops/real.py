"""Real images as a stage of the run, for comparison with generated ones."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from ...errors import PSAQError
from ...registry import LOOPS
from ..dataset_checks import build_dataset, missing_path
from .base import FillLoop


@LOOPS.register_module()
class RealImagesLoop(FillLoop):
    """Fill the pool with crops of a data set's images, after the model's data preprocessor.

    Args:
        runner: The runner.
        dataset: Config of the data set, with its pipeline; it must not contain images of the evaluation.
        images: Number of images.
        image_size: Height and width of the crops; smaller images are padded with zeros (the mean colour).

    Raises:
        UsageError: The data set cannot be read, or has other classes than the model.
        PSAQError: The data set does not exist, or has too few images.
    """

    def __init__(
        self, runner: Runner, dataset: dict[str, Any], images: int = 32, image_size: int | tuple[int, int] = 224
    ) -> None:
        super().__init__(runner, images, image_size)
        try:
            # Built with the stage, so that an error is raised before the float model is evaluated.
            self.dataset = build_dataset(dataset, runner.teacher)
        except FileNotFoundError as error:
            missing = missing_path(error)
            raise PSAQError(f"the real images are not there ({missing}): arms without data need none") from None
        if len(self.dataset) < images:
            raise PSAQError(f"{images} real images were asked for, the data set has {len(self.dataset)}: ask for fewer")

    def run(self) -> None:
        """Fill the pool with random crops of randomly chosen images."""
        order = torch.randperm(len(self.dataset), generator=self.state.generator)[: self.images]
        preprocess: Any = self.state.teacher.model.data_preprocessor
        crops = []
        for index in order.tolist():
            packed = self.dataset[index]
            batch = preprocess({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}, False)
            crops.append(self._crop(batch["inputs"].cpu()))
        self.fill(torch.cat(crops))

    def _crop(self, image: Tensor) -> Tensor:
        height, width = self.image_size
        missing = max(0, height - image.shape[-2]), max(0, width - image.shape[-1])
        image = F.pad(image, (0, missing[1], 0, missing[0]))
        spare = image.shape[-2] - height, image.shape[-1] - width
        top, left = (int(torch.randint(s + 1, (1,), generator=self.state.generator)) for s in spare)
        return image[..., top : top + height, left : left + width]
