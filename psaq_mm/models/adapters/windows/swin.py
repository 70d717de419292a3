"""Swin of mmdet, mmseg, mmpretrain and timm: window attention with a table of relative position biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....quantization import Quantizer, QuantPolicy
from ..conversion import convert_with_output
from ..declaration import Adapter, register_adapter
from ..decomposed import output_quantizer
from .regions import QuantWindows, tap_shift_window_msa, tap_timm_block


class QuantWindowMSA(QuantWindows):
    """``WindowMSA`` (timm: ``WindowAttention``) in decomposed form, with quantizers on its operands.

    Scheme ``deploy`` keeps the bias table FP; the other scheme quantizes it, as V1 does.
    """

    qkv: nn.Module
    relative_position_bias_table: nn.Parameter
    relative_position_bias_table_quantizer: Quantizer | None

    @classmethod
    def from_module(cls, module: Any, name: str, policy: QuantPolicy) -> QuantWindowMSA:
        """The quantized sibling; shares the parameters.

        Args:
            module: The float attention.
            name: Its name in the model.
            policy: What to quantize and how.
        """
        self = cls()
        deploy = policy.scheme == "deploy"
        self.adopt(module, module.scale, module.attn_drop)
        self.window_size = module.window_size
        self.relative_position_bias_table = module.relative_position_bias_table
        self.adopt_buffers(module, "relative_position_index")
        self.qkv = convert_with_output(module.qkv, f"{name}.qkv", policy)
        self.proj = convert_with_output(module.proj, f"{name}.proj", policy)
        self.proj_drop = module.proj_drop
        self.add_products(name, policy, "qkv", output_quantizer(self.qkv))
        key = "relative_position_bias_table_quantizer"
        table = None if deploy else policy.specs(f"{name}.relative_position_bias_table")
        setattr(self, key, Quantizer(table.activation, f"{name}.{key}") if table else None)
        if deploy:
            self.fp_notes["relative_position_bias_table"] = "scheme deploy keeps bias tables FP"
        return self.train(module.training)

    def project(self, x: Tensor) -> Tensor:
        """See base class."""
        return self.qkv(x)

    def position_bias(self) -> Tensor:
        """See base class."""
        quantizer = self.relative_position_bias_table_quantizer
        table = self.relative_position_bias_table
        return self.bias_of(table if quantizer is None else quantizer(table))


def smallest_map(module: Any) -> int | None:
    """mmpretrain's windows must fit into the map unless the config lets them be padded."""
    return None if module.pad_small_map else module.window_size


MMPRETRAIN_WINDOWS = "mmpretrain.models.utils.attention.ShiftWindowMSA"
MMPRETRAIN = "mmpretrain.models.backbones.swin_transformer.SwinTransformer"
register_adapter(
    Adapter(
        attentions=dict.fromkeys(
            (
                "mmdet.models.backbones.swin.WindowMSA",
                "mmseg.models.backbones.swin.WindowMSA",
                "mmpretrain.models.utils.attention.WindowMSA",
                "timm.models.swin_transformer.WindowAttention",
            ),
            QuantWindowMSA.from_module,
        ),
        taps={
            "mmdet.models.backbones.swin.ShiftWindowMSA": tap_shift_window_msa,
            "mmseg.models.backbones.swin.ShiftWindowMSA": tap_shift_window_msa,
            MMPRETRAIN_WINDOWS: tap_shift_window_msa,
            "timm.models.swin_transformer.SwinTransformerBlock": tap_timm_block,
        },
        blocks=(
            "mmdet.models.backbones.swin.SwinBlock",
            "mmseg.models.backbones.swin.SwinBlock",
            "mmpretrain.models.backbones.swin_transformer.SwinBlock",
            "timm.models.swin_transformer.SwinTransformerBlock",
        ),
        patch_mergings=(
            "mmdet.models.layers.transformer.utils.PatchMerging",
            "mmseg.models.utils.embed.PatchMerging",
            "mmcv.cnn.bricks.transformer.PatchMerging",
            "timm.models.swin_transformer.PatchMerging",
        ),
        backbones=(
            "mmdet.models.backbones.swin.SwinTransformer",
            "mmseg.models.backbones.swin.SwinTransformer",
            MMPRETRAIN,
        ),
        smallest_maps={MMPRETRAIN_WINDOWS: smallest_map},
        # mmpretrain resizes on loading every entry whose key contains "relative_position_bias_table"
        hidden_keys={MMPRETRAIN: ("_quantizer.",)},
    )
)
