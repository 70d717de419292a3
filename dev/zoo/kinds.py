"""What kind of model a config describes: the class of its backbone, its parts, and what it needs besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psaq_mm.models import named
from psaq_mm.models.hosts import short_name

# Backbones with products of two activations, by class name; a test finds each in one of the libraries.
ATTENTION = """
    BEiT BEiTPretrainViT BEiTViT CAEPretrainViT Conformer DaViT DeiT3 DistilledVisionTransformer
    EdgeNeXt EfficientFormer HiViT iTPNHiViT LeViT MAE MAEHiViT MAEViT MaskFeatViT MFFViT MILANViT
    MixMIMPretrainTransformer MixMIMTransformer MixVisionTransformer MobileViT MoCoV3ViT MViT PCPVT
    PyramidVisionTransformer PyramidVisionTransformerV2 RevVisionTransformer SimMIMSwinTransformer SVT SwinTransformer
    SwinTransformerV2 T2T_ViT TinyViT TNT VisionTransformer ViTEVA02 ViTSAM XCiT
"""
TRANSFORMERS = frozenset(ATTENTION.split())
TIMM = ("TIMMBackbone", "TimmClassifier")
HUGGINGFACE = ("HuggingFaceClassifier",)
KINDS = ("transformer", "other", "timm", "huggingface")
# Keys of the part that takes the images, in the order in which they are looked for; inside of one another.
BACKBONES = ("backbone", "vision_backbone", "vision_encoder", "visual_encoder", "image_encoder", "encoder_cfg")
WRAPPERS = ("detector", "module")
LANGUAGE = ("language_model", "lang_encoder", "text_backbone", "text_encoder", "multimodal_backbone", "tokenizer")
# Parts in whose classes two models of a kind may differ, for the choice of representatives.
PARTS = ("neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head", "decode_head", "head")
SIZES = ("nano", "pico", "tiny", "small", "medium", "base", "large", "huge", "giant")


def type_name(kind: Any) -> str:
    """A ``type`` as its class name, after its library's where the config names that: ``'mmpretrain.ConvNeXt'``."""
    full = named(kind or "")
    return short_name(full) if "." in full else full


def short(kind: Any) -> str:
    """The class name of a ``type``."""
    return named(kind or "").rpartition(".")[2]


def backbone_config(model: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's config that takes the images, also inside a tracker's ``detector`` or a LoRA model.

    The model's own config if there is none, as for mmpretrain's ``TimmClassifier``.
    """
    for key in (*BACKBONES, *WRAPPERS):
        part = model.get(key)
        if isinstance(part, dict):
            return backbone_config(part) if key in WRAPPERS or "module" in part else part
    return model


def backbone_name(model: dict[str, Any], scope: str) -> str:
    """Library and class of the backbone: ``'mmpretrain.ConvNeXt'``.

    Args:
        model: The model's config.
        scope: The config's ``default_scope``.
    """
    full = type_name(backbone_config(model).get("type") or model.get("type"))
    return full if "." in full else f"{scope}.{full}"


def kind_of(model: dict[str, Any]) -> str:
    """One of :data:`KINDS`, by the class of the backbone."""
    names = {short(model.get("type")), short(backbone_config(model).get("type"))}
    if names & set(TIMM):
        return "timm"
    if names & set(HUGGINGFACE):
        return "huggingface"
    return "transformer" if names & TRANSFORMERS else "other"


def needs_of(model: dict[str, Any]) -> str:
    """``'language'`` for a model with a text branch, whose files are not there without a download; else empty."""
    return "language" if any(model.get(key) for key in LANGUAGE) else ""


def classes_of(model: dict[str, Any], scope: str) -> tuple[str, ...]:
    """The classes of the model, of its backbone, and of its neck and heads.

    Models that agree in these may differ in depth, width and options.
    """
    inner = model.get("detector") if isinstance(model.get("detector"), dict) else {}
    parts = [part for key in PARTS for part in as_list(model.get(key) or (inner or {}).get(key))]
    heads = {short(part.get("type")) for part in parts if isinstance(part, dict)}
    return (short(model.get("type")), backbone_name(model, scope), *sorted(heads))


def size_of(model: dict[str, Any]) -> tuple[int, int]:
    """A rough order of models of one class by size: of the name of the architecture, and of the numbers that it has."""
    backbone = backbone_config(model)
    words = str(backbone.get("arch") or backbone.get("model_type") or "").lower()
    ranks = [rank for rank, word in enumerate(SIZES) if word in words]
    return (max(ranks, default=len(SIZES) // 2), sum(whole_numbers(backbone)))


def whole_numbers(part: Any) -> Iterator[int]:
    """All integers in a config, however deep."""
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for one in part:
            yield from whole_numbers(one)
    elif isinstance(part, int) and not isinstance(part, bool) and part > 0:
        yield part


def as_list(part: Any) -> list[Any]:
    """One part or several, in a list; empty for None."""
    return list(part) if isinstance(part, (list, tuple)) else [part] if part is not None else []
