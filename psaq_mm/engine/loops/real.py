"""Real images, for the arm that measures what data would have given."""

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
    """Crops of a data set's images, as the model's own preprocessor gives them.

    Args:
        runner: The runner.
        dataset: Config of the data set, with its pipeline; never the evaluation's images.
        images: How many images.
        image_size: Height and width of the crops; smaller images are padded with zeros (the mean colour).
    """

    def __init__(
        self, runner: Runner, dataset: dict[str, Any], images: int = 32, image_size: int | tuple[int, int] = 224
    ) -> None:
        super().__init__(runner, images, image_size)
        try:
            # With the stage, so that what is wrong with it is said before the float model is evaluated.
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
