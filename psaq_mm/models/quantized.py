"""Quantizing a model of a host, or a part of it, in place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import UsageError
from ..quantization import (
    QuantPolicy,
    fold_norms,
    quantize_conv2d,
    quantize_conv_transpose2d,
    quantize_linear,
    quantize_model,
    register_pairs,
    register_quantized,
)
from ..quantization.convert import join
from .adapters.conversion import inline_sum
from .adapters.declaration import LAYER_SCALES
from .adapters.first_layer import first_layer_of
from .adapters.generic import OTHER_PRODUCTS, has_attention
from .adapters.last_layers import last_layers, timm_classifiers
from .hosts.language import TEXT_ATTENTION, TEXT_BRANCH, takes_text
from .load_hooks import restrict_load_hooks

SCOPES = ("backbone", "model")

# Their forwards add only a guard against empty batches of torch 1.4, which those of torch.nn handle themselves.
register_quantized("mmcv.cnn.bricks.wrappers.Linear")(quantize_linear)
register_quantized("mmcv.cnn.bricks.wrappers.Conv2d")(quantize_conv2d)
register_quantized("mmcv.cnn.bricks.wrappers.ConvTranspose2d")(quantize_conv_transpose2d)


@register_pairs("mmcv.cnn.bricks.conv_module.ConvModule")
def conv_module_pairs(module: Any) -> list[tuple[str, str]]:
    """The convolution of an mmcv ConvModule and the norm that follows it."""
    order = module.order
    if not module.with_norm or order.index("norm") != order.index("conv") + 1:
        return []
    # mmcv's own folding at each pass, an option, would read statistics of the norm that are no longer there.
    module.efficient_conv_bn_eval_forward = None
    return [("conv", module.norm_name)]


def policy_of(quantization: dict[str, Any]) -> tuple[QuantPolicy, str]:
    """The policy and the scope of a config's ``quantization``.

    Raises:
        UsageError: The scope is unknown.
        QuantizationError: The policy is not valid.
    """
    options = {key: value for key, value in quantization.items() if key != "scope"}
    scope = quantization.get("scope", "backbone")
    if scope not in SCOPES:
        raise UsageError(f"quantization scope {scope!r} is unknown: use one of {', '.join(SCOPES)}")
    return QuantPolicy.from_config(options), scope


def quantize_in_place(module: nn.Module, quantization: dict[str, Any], prefix: str = "") -> nn.Module:
    """Quantize a model or a part of it, uncalibrated. Batch norms behind quantized convolutions are folded into them.

    Args:
        module: The whole model, or a backbone.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`, and ``scope``.
        prefix: The module's name in the whole model, with which the policy's patterns begin.

    Returns:
        The module.
    """
    policy, scope = policy_of(quantization)
    own = precision_overrides(module, [first_layer_of(module, prefix)], policy.first_layer, "first_layer", prefix)
    if scope == "model":
        found = [join(prefix, name) for name in last_layers(module)]
        own += precision_overrides(module, found, policy.last_layers, "last_layers", prefix)
        own += text_overrides(module, prefix)
    # First, so that overrides of the config count.
    policy = replace(policy, overrides=(*own, *policy.overrides))
    fold_norms(module, lambda name: policy.specs(name) is not None, prefix)
    quantized = quantize_model(module, policy, prefix=prefix)
    note_float_parts(quantized, policy)
    restrict_load_hooks(quantized)
    return quantized


def as_then(model: nn.Module, quantization: dict[str, Any]) -> dict[str, Any]:
    """The quantization of an artifact as the version that wrote it carried it out.

    Every key of the policy stands in an artifact. One without ``last_layers`` is older than that key, and older than
    the quantized form of transposed convolutions, so these stay FP.

    Args:
        model: The float model.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`, and ``scope``.
    """
    if "last_layers" in quantization:
        return quantization
    found = [name for name, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)]
    kept = keep_float(model, found, "transposed convolutions stay FP in artifacts of earlier versions")
    return {**quantization, "overrides": [*kept, *(quantization.get("overrides") or ())]}


def precision_overrides(
    model: nn.Module, names: Iterable[str | None], precision: int | str | None, key: str, prefix: str = ""
) -> list[dict[str, Any]]:
    """Overrides for layers to which the policy gives a precision of their own.

    Args:
        model: The float model.
        names: The layers, or containers of them, by their names in the model that the patterns refer to.
        precision: Bits, ``'float'``, or None for that of other layers.
        key: The policy's key, for the coverage report.
        prefix: The model's name in the model that the patterns refer to.
    """
    if precision is None:
        return []
    found = [name for name in names if name]
    if precision == "float":
        own = [name.removeprefix(f"{prefix}.") if prefix else name for name in found]
        return keep_float(model, own, f"kept FP by {key}='float'", prefix)
    return [{"pattern": name, "bits": precision} for name in found]


def text_overrides(model: nn.Module, prefix: str = "") -> list[dict[str, Any]]:
    """Overrides that keep the language model of a detector FP; those of a config (``keep_fp=False``) take precedence.

    Args:
        model: The float model.
        prefix: The model's name in the model that the patterns refer to.
    """
    for module in model.modules() if takes_text(model) else ():
        if type(module).__name__ in TEXT_ATTENTION:
            noted: Any = module
            noted.fp_notes = {"products": f"attention products of {type(module).__name__} stay FP"}
    reason = f"the text branch stays FP: override {TEXT_BRANCH!r} with keep_fp=False quantizes it"
    return keep_float(model, [TEXT_BRANCH] if takes_text(model) else [], reason, prefix)


def keep_float(model: nn.Module, names: Iterable[str], reason: str, prefix: str = "") -> list[dict[str, Any]]:
    """Overrides that keep modules FP, with the reason that the coverage report gives for their layers.

    Args:
        model: The float model.
        names: The modules' names in it.
        reason: The reason.
        prefix: The model's name in the model that the patterns refer to.
    """
    names = list(names)
    for module in (child for name in names for child in model.get_submodule(name).modules()):
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            noted: Any = module
            noted.fp_notes = {**dict.fromkeys(("weight", "input"), reason), **getattr(module, "fp_notes", {})}
    return [{"pattern": join(prefix, name), "keep_fp": True} for name in names]


def quantize_body(model: nn.Module, name: str, quantization: dict[str, Any]) -> nn.Module:
    """Quantize a classifier without a backbone, except the layers that compute its classes.

    Heads stay FP in scope ``backbone``. An override may quantize them (``model.head``, ``keep_fp=False``).

    Args:
        model: The model, changed in place.
        name: The attribute that holds timm's model.
        quantization: The keys of :class:`psaq_mm.quantization.QuantPolicy`; patterns begin with ``name``.

    Returns:
        The model.
    """
    body: Any = getattr(model, name)
    if not has_attention(body):
        body.fp_notes = {"attention_products": OTHER_PRODUCTS}
    # First, so that later overrides of the config count.
    options = {**quantization, "overrides": [*classifier_overrides(body, name), *quantization.get("overrides", ())]}
    quantize_in_place(body, options, prefix=name)
    return model


def classifier_overrides(body: Any, name: str) -> list[dict[str, Any]]:
    """Overrides that keep the classifier of a timm model FP, as heads stay FP in other models.

    Args:
        body: The timm model.
        name: Its name in the model that the patterns refer to.
    """
    return [{"pattern": f"{name}.{key}", "keep_fp": True} for key in timm_classifiers(body)]


def note_float_parts(model: nn.Module, policy: QuantPolicy) -> None:
    """Note why position embeddings, extra tokens and layer scales stay FP, for the coverage report."""
    for module in model.modules():
        own = [key for key, value in module._parameters.items() if value is not None]
        embeddings = [key for key in own if key.endswith(("pos_embed", "_token"))]
        notes: dict[str, str] = {}
        if embeddings:
            notes = {**dict.fromkeys(embeddings, "embeddings stay FP"), "embedding_sum": inline_sum(module, policy)}
        elif LAYER_SCALES.match(type(module)):
            notes = dict.fromkeys(own, "layer scales stay FP")
        if notes:
            noted: Any = module
            noted.fp_notes = {**notes, **getattr(module, "fp_notes", {})}
