"""The modules by which mmseg and mmpretrain use models of timm; the families themselves are declared elsewhere."""

from __future__ import annotations

from ..declaration import Adapter, register_adapter

register_adapter(
    Adapter(
        backbones=(
            "mmseg.models.backbones.timm_backbone.TIMMBackbone",
            "mmpretrain.models.backbones.timm_backbone.TIMMBackbone",
        ),
        classifiers=("mmpretrain.models.classifiers.timm.TimmClassifier",),
    )
)
