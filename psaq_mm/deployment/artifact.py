"""An artifact (``quantized.py`` and ``quantized.pth``), its parts and their ONNX graphs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ..compat import versions
from ..errors import UsageError
from ..models import backbone_of, image_channels, policy_of
from ..models.checkpoint import load_weights, read_checkpoint
from ..models.hosts.types import buildable
from ..quantization import check_calibrated, coverage
from . import ExportWrapper, quantized_onnx
from .parts import IMAGES, StaticPart, static_parts

# Names of the exported modules; those of 'model' are its static parts.
PARTS = {"backbone": ("backbone",), "backbone+neck": ("backbone", "neck"), "model": ()}


class Artifact:
    """A quantized model that ``tools/dfq.py`` wrote.

    Args:
        cfg: The config ``quantized.py``.
        checkpoint: Path of ``quantized.pth``.

    Attributes:
        cfg: A copy of the config, without ``load_from``.
        quantization: The keys of the policy.
        meta: The checkpoint's ``meta``.
        state: The state dict.
        model: The model in eval mode.

    Raises:
        UsageError: The config has no quantized model.
        PSAQError: The checkpoint is missing, belongs to another config or holds a float model.
        QuantizationError: The model is not calibrated.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        init_default_scope(cfg.get("default_scope") or "mmengine")
        owner = cfg.model if "quantization" in cfg.model else cfg.model.get("backbone") or {}
        if cfg.model.get("detector"):
            raise UsageError(
                f"{cfg.model.type} is a tracker, which cannot be exported: quantize its detector by a config of its own"
            )
        if "quantization" not in owner:
            raise UsageError(f"{cfg.filename} names no quantized model: give the quantized.py that tools/dfq.py left")
        self.cfg, self.quantization = copy.deepcopy(cfg), owner["quantization"].to_dict()
        self.cfg.load_from = None  # a path of this machine, but the config is copied to others with the exported file
        loaded = read_checkpoint(checkpoint, hint="give the quantized.pth that tools/dfq.py left beside the config")
        self.meta, self.state = loaded["meta"], loaded["state_dict"]
        model = copy.deepcopy(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            model.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
        with buildable(cfg, "model"):
            self.model: nn.Module = HOST_MODELS.build(model)
        load_weights(self.model, self.state, str(checkpoint))
        self.model.eval()
        check_calibrated(self.model)
        self._converted: dict[tuple[Any, ...], Any] = {}

    def parts(self, part: str) -> list[StaticPart]:
        """The parts of the model that are exported, that of the images first.

        Args:
            part: A key of :data:`PARTS`.

        Raises:
            UsageError: The model has no such part, or a head cannot be exported.
        """
        if part == "model":
            return static_parts(self.model)
        modules = []
        for name in PARTS[part]:
            # backbone_of, because the wrapper of timm's classifiers names it otherwise
            module = backbone_of(self.model)[1] if name == "backbone" else getattr(self.model, name, None)
            if module is None:
                raise UsageError(f"{type(self.model).__name__} has no {name}: export its backbone alone")
            modules.append(module)
        return [StaticPart(IMAGES, PARTS[part], ExportWrapper(*modules))]

    def onnx(self, part: StaticPart, size: tuple[int, int], batch: int, opset: int, weights: str) -> Any:
        """A part of the model as ONNX; results are kept, so that a second format costs no second conversion.

        Args:
            part: One of :meth:`parts`. A part of RoIs has a dynamic batch.
            size: Height and width of the input images.
            batch: Batch size.
            opset: ONNX opset.
            weights: Storage type of 4-bit weights, see :func:`psaq_mm.deployment.quantized_onnx`.

        Raises:
            ExportError: An error of :func:`psaq_mm.deployment.quantized_onnx`.
        """
        options: dict[str, Any] = {"opset": opset, "weights": weights, "metadata": {"psaq_mm.part": part.name}}
        if part.input_shape is None:
            options |= {"batch": batch, "channels": image_channels(backbone_of(self.model)[1])}
            options["metadata"] |= self.metadata()
        else:
            # Heads may be float, or keep 8 bits, in a model whose backbone is quantized or has 4.
            options |= {"batch": None, "channels": part.input_shape[0], "input_name": "rois", "required": False}
            size = part.input_shape[1:]
        asked = (part.covers, size, batch, opset, weights)
        if asked not in self._converted:
            self._converted[asked] = quantized_onnx(part.graph, size, **options)
        return self._converted[asked]

    def metadata(self) -> dict[str, str]:
        """Metadata of the exported file: config, quantization, versions and coverage."""
        policy, _ = policy_of(self.quantization)
        report = coverage(self.model, policy)
        return {
            "psaq_mm.config": self.cfg.pretty_text,
            "psaq_mm.quantization": json.dumps(self.meta.get("psaq_mm", self.quantization)),
            "psaq_mm.versions": json.dumps(versions()),
            "psaq_mm.coverage": report.to_json(),
        }
