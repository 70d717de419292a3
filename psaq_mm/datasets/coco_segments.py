"""Masks of a COCO annotation file as semantic maps, for mmseg: a data set and the transform that draws the maps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from pycocotools import mask as coco_mask

from ..errors import UsageError

BACKGROUND = 0


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation as a mask, ``(H, W)`` bool.

    Args:
        segmentation: Polygons (a list of lists of coordinates), or a run-length encoding, compressed or not.
        height: H, in pixels.
        width: W, in pixels.
    """
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation).astype(bool)


class CocoSegments(BaseSegDataset):
    """Images of a COCO annotation file for semantic segmentation; :class:`LoadCocoSegments` draws their maps.

    The first class of ``metainfo`` is the background, the others are names of categories. Categories that are no class
    are background. Images without annotations are kept.

    Args:
        ann_file: The annotation file, relative to ``data_root``.
        **kwargs: Arguments of ``mmseg.datasets.BaseSegDataset``; of ``data_prefix``, ``img_path`` is used.

    Raises:
        FileNotFoundError: There is no annotation file.
        UsageError: A class is no category of it.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Images with their path, and the segmentations and classes of their annotations."""
        with open(self.ann_file, encoding="utf-8") as opened:
            read = json.load(opened)
        names = {one["name"]: one["id"] for one in read["categories"]}
        labels = {}
        for label, name in enumerate(self._metainfo["classes"]):
            if label != BACKGROUND and name not in names:
                raise UsageError(
                    f"{self.ann_file} has no category {name!r}: give metainfo.classes a name for the background and "
                    f"then some of {', '.join(sorted(names))}"
                )
            labels[names.get(name)] = label
        labels.pop(None, None)
        found: dict[int, dict[str, Any]] = {}
        for image in read["images"]:
            found[image["id"]] = {
                "img_path": f"{self.data_prefix['img_path']}/{image['file_name']}",
                "segments": [],
                "label_map": None,
                "reduce_zero_label": False,
                "seg_fields": [],
            }
        for one in read["annotations"]:
            if one["category_id"] in labels:
                found[one["image_id"]]["segments"].append((one["segmentation"], labels[one["category_id"]]))
        return list(found.values())


class LoadCocoSegments(BaseTransform):
    """Draws the map of an image of :class:`CocoSegments`, in place of mmseg's ``LoadAnnotations``.

    Reads ``ori_shape`` and ``segments``; adds ``gt_seg_map``, ``(H, W)`` uint8, of the size of the image's file. Where
    masks overlap, the later annotation is seen. As with ``LoadAnnotations``, pipelines of evaluation have it behind
    ``Resize``, so that predictions are compared at the file's size.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map to the results of the pipeline."""
        height, width = results["ori_shape"][:2]
        drawn = np.full((height, width), BACKGROUND, dtype=np.uint8)
        for segmentation, label in results["segments"]:
            drawn[decode_mask(segmentation, height, width)] = label
        results["gt_seg_map"] = drawn
        results["seg_fields"].append("gt_seg_map")
        return results
