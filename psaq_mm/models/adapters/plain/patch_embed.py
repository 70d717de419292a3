"""Image embeddings, which several families of a library share."""

from __future__ import annotations

from typing import Any

from ..declaration import Adapter, register_adapter

TIMM = "timm.layers.patch_embed.PatchEmbed"


def fixed_size(module: Any) -> tuple[int, int] | None:
    """The only image size that an embedding of timm's takes, None where it takes others."""
    if (
        module.img_size is None
        or not getattr(module, "strict_img_size", False)
        or getattr(module, "dynamic_img_pad", False)
    ):
        return None
    return module.img_size[0], module.img_size[1]


register_adapter(
    Adapter(
        patch_embeds=(
            "mmdet.models.layers.transformer.utils.PatchEmbed",
            "mmseg.models.utils.embed.PatchEmbed",
            "mmcv.cnn.bricks.transformer.PatchEmbed",
            TIMM,
        ),
        fixed_sizes={TIMM: fixed_size},
    )
)
