"""A small model of a backbone family, and what is expected of its adapter."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.conftest import random_weights


@dataclass(frozen=True)
class Case:
    """One backbone.

    Attributes:
        scope: The library in whose scope the config is built.
        backbone: The config, with few and narrow layers.
        attentions: How many attention layers have both of their products quantized.
        taps: How many layers yield tokens; None for as many as ``attentions``.
        size: Side of the images.
        patches: The numbers of patches of the tapped layers, one for each kind, in the order of their first
            occurrence; None where they are not checked.
        float_layers: Parts of the names of the Linear and Conv2d layers that stay FP for a reason.
        pickled: False where the library's own model cannot be pickled.
        not_exported: Why the export is not tested, or an empty string.
        not_in_openvino: Why OpenVINO does not compute the exported file, or an empty string.
    """

    scope: str
    backbone: dict[str, Any]
    attentions: int
    taps: int | None = None
    size: int = 64
    patches: tuple[int, ...] | None = None
    float_layers: tuple[str, ...] = ()
    pickled: bool = True
    not_exported: str = ""
    not_in_openvino: str = ""

    def build(self) -> nn.Module:
        """The float backbone with random weights, in eval mode."""
        init_default_scope(self.scope)
        return random_weights(MODELS.build(copy.deepcopy(self.backbone)))
