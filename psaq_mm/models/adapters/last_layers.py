"""The layers that compute class scores, box deltas and masks, which a policy may give a precision of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ...utils.class_table import full_name

# Attributes by the full name of a class; all classes from which a module's class inherits count, whatever their
# ``forward``, since subclasses change what comes before these layers.
LAST_LAYERS: dict[str, tuple[str, ...]] = {}


def register_last_layers(classes: Iterable[str], *attributes: str) -> None:
    """Declare the last layers of heads.

    Args:
        classes: Full names of classes, e.g. ``'mmdet.models.dense_heads.rpn_head.RPNHead'``.
        *attributes: Names of attributes, which may have dots: a layer, or a container whose layers are all meant.
            Those that an object does not have are skipped.
    """
    for name in classes:
        LAST_LAYERS[name] = (*LAST_LAYERS.get(name, ()), *attributes)


def last_layers(model: nn.Module) -> list[str]:
    """The names of a model's last layers, or of containers of them, in the model's order."""
    found: dict[str, None] = {}
    for path, module in model.named_modules():
        keys = [key for base in type(module).__mro__ for key in LAST_LAYERS.get(full_name(base), ())]
        keys = [key for key in keys if has_parameters(module, key)] or timm_classifiers(module)
        found.update({f"{path}.{key}" if path else key: None for key in keys})
    return list(found)


def has_parameters(module: nn.Module, key: str) -> bool:
    """Whether a module has a descendant of this name with parameters."""
    try:
        return any(True for _ in module.get_submodule(key).parameters())
    except AttributeError:
        return False


def timm_classifiers(body: Any) -> list[str]:
    """The names of the layers of a timm model that compute its classes; none in other modules."""
    if not type(body).__module__.startswith("timm.") or not hasattr(body, "get_classifier"):
        return []
    found = body.get_classifier()
    heads = set(found) if isinstance(found, (tuple, list)) else {found}
    return [key for key, module in body.named_modules() if module in heads and has_parameters(body, key)]


_MMDET, _MMSEG, _MMPRETRAIN = "mmdet.models", "mmseg.models.decode_heads", "mmpretrain.models.heads"

register_last_layers(
    (f"{_MMDET}.dense_heads.base_dense_head.BaseDenseHead",),
    *("rpn_cls", "rpn_reg", "conv_cls", "conv_reg", "conv_centerness", "retina_cls", "retina_reg"),
    *("atss_cls", "atss_reg", "atss_centerness", "atss_iou", "gfl_cls", "gfl_reg", "tood_cls", "tood_reg"),
    *("vfnet_cls", "vfnet_reg", "vfnet_reg_refine", "cls_score", "bbox_pred", "object_pred", "centerness"),
    *("rtm_cls", "rtm_reg", "rtm_obj", "multi_level_conv_cls", "multi_level_conv_reg", "multi_level_conv_obj"),
    *("convs_pred", "heatmap_head.2", "wh_head.2", "offset_head.2"),
)
# In other heads these are the layers before the last.
register_last_layers((f"{_MMDET}.dense_heads.ssd_head.SSDHead",), "cls_convs", "reg_convs")
register_last_layers((f"{_MMDET}.dense_heads.detr_head.DETRHead",), "fc_cls", "fc_reg", "cls_branches", "reg_branches")
register_last_layers((f"{_MMDET}.dense_heads.maskformer_head.MaskFormerHead",), "cls_embed", "mask_embed.4")
register_last_layers(
    (f"{_MMDET}.roi_heads.bbox_heads.bbox_head.BBoxHead", f"{_MMDET}.roi_heads.bbox_heads.sabl_head.SABLHead"),
    *("fc_cls", "fc_reg", "fc_reg_cls", "fc_reg_offset"),
)
register_last_layers(
    (
        f"{_MMDET}.roi_heads.mask_heads.fcn_mask_head.FCNMaskHead",
        f"{_MMDET}.roi_heads.mask_heads.mask_point_head.MaskPointHead",
        f"{_MMDET}.seg_heads.panoptic_fpn_head.PanopticFPNHead",
    ),
    *("conv_logits", "fc_logits"),
)
register_last_layers((f"{_MMSEG}.decode_head.BaseDecodeHead",), "conv_seg")
register_last_layers(
    (f"{_MMPRETRAIN}.cls_head.ClsHead", f"{_MMPRETRAIN}.multi_label_cls_head.MultiLabelClsHead"),
    *("fc", "fc2", "head", "head_dist", "layers.head", "layers.head_dist"),
)
