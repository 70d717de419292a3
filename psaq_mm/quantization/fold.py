"""Batch norms that follow a convolution are folded into it, as engines do when they load a model.

A quantizer between a convolution and its norm would round values that no engine ever computes. Models are built with
random weights and get those of a checkpoint later, so folded modules also fold the norms of the state dicts that they
load: those of the float model, and those of models that were quantized before norms were folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..utils.class_table import ClassTable, full_name
from .convert import factory_of, is_quantized, join

Pairs = Callable[[Any], Iterable[tuple[str, str]]]
_P = TypeVar("_P", bound=Pairs)

PAIRS: ClassTable[Pairs] = ClassTable()
_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
# Norms whose forward is known; that of timm's also applies its own "drop" and "act", which stay.
_NORMS: ClassTable[tuple[str, ...]] = ClassTable()
_NORMS.add(("torch.nn.modules.batchnorm._BatchNorm", "torch.nn.modules.batchnorm.SyncBatchNorm"), ())
_NORMS.add(("timm.layers.norm_act.BatchNormAct2d",), ("drop", "act"))
_STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def register_pairs(*classes: type[nn.Module] | str) -> Callable[[_P], _P]:
    """Registers a function that names the layers of a module that a norm follows directly.

    The decorated function gets a module and returns pairs of attribute names: a layer, and the norm that gets nothing
    but the layer's output. It is also called for subclasses that inherit ``forward``.

    Args:
        *classes: Classes, or full names as given by :func:`full_name`.
    """

    def register(pairs: _P) -> _P:
        PAIRS.add((one if isinstance(one, str) else full_name(one) for one in classes), pairs)
        return pairs

    return register


@register_pairs(nn.Sequential)
def sequential_pairs(module: nn.Sequential) -> Iterator[tuple[str, str]]:
    """Neighbours in a Sequential."""
    names = list(module._modules)
    return zip(names, names[1:], strict=False)


@dataclass(frozen=True)
class FoldedNorm:
    """A norm that was folded into a layer, as a hook of the module that owns both: it folds the state dicts to load.

    Attributes:
        layer: The layer's name in the module.
        norm: The norm's name in the module.
        axis: The dimension of the output channels in the layer's weight.
        eps: The norm's ``eps``.
    """

    layer: str
    norm: str
    axis: int
    eps: float

    def __call__(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Folds the norm of a state dict in place; has no effect where the state dict has none.

        Args:
            state: A state dict.
            prefix: The name of the module in it, with a dot at the end.
        """
        norm, weight, bias = (
            f"{prefix}{one}" for one in (f"{self.norm}.", f"{self.layer}.weight", f"{self.layer}.bias")
        )
        if f"{norm}running_var" not in state or weight not in state:
            return
        values = {key: state.pop(norm + key, None) for key in _STATISTICS}
        state[weight], state[bias] = fold(state[weight], state.get(bias), values, self.axis, self.eps)


def fold(
    weight: Tensor, bias: Tensor | None, norm: dict[str, Tensor | None], axis: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that contains the norm behind it, computed in float64.

    ::

        w'_o = w_o gamma_o / sqrt(var_o + eps),    b'_o = (b_o - mean_o) gamma_o / sqrt(var_o + eps) + beta_o

    Example: a weight of 2 without bias, gamma 3, beta 1, mean 4, variance 0.25 and eps 0: the weight becomes
    2 * 3 / 0.5 = 12, the bias -4 * 3 / 0.5 + 1 = -23.

    Args:
        weight: The layer's weight.
        bias: Its bias, ``(out,)`` or None.
        norm: ``running_mean``, ``running_var``, and ``weight`` and ``bias`` (None for a norm without them).
        axis: The dimension of the output channels in the weight.
        eps: Added to the variance.

    Returns:
        The new weight and bias ``(out,)``, in the type of ``weight``.
    """
    mean, variance, gamma, beta = (norm.get(key) for key in ("running_mean", "running_var", "weight", "bias"))
    assert mean is not None and variance is not None
    factor = (variance.double() + eps).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    shift = -mean.double() * factor if bias is None else (bias.double() - mean.double()) * factor
    if beta is not None:
        shift = shift + beta.double()
    shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]
    return (weight.double() * factor.view(shape)).to(weight.dtype), shift.to(weight.dtype)


@torch.no_grad()
def fold_norms(model: nn.Module, wanted: Callable[[str], bool] = lambda name: True, prefix: str = "") -> list[str]:
    """Folds batch norms into the layers before them, in place; each becomes an ``nn.Identity``.

    Of a norm that also applies an activation (timm's), the activation remains.

    The model then computes in every mode what it computed in eval mode. Pairs are neighbours in ``nn.Sequential`` and
    what :func:`register_pairs` declares. Norms without running statistics and layers that occur in several places are
    left alone, because one weight cannot contain two norms.

    Args:
        model: A float model.
        wanted: Gets a layer's name; its norm is folded if this is true.
        prefix: Name of ``model`` in the whole model, with which the names begin.

    Returns:
        The names of the folded norms.
    """
    uses = Counter(child for module in model.modules() for child in module._modules.values() if child is not None)
    tensors = Counter(one for module in model.modules() for one in module._parameters.values() if one is not None)
    done = []
    for path, module in list(model.named_modules()):
        pairs = PAIRS.of(type(module))
        if pairs is None or is_quantized(module):
            continue
        for layer_name, norm_name in list(pairs(module)):
            layer, norm = module._modules.get(layer_name), module._modules.get(norm_name)
            own = [one for part in (layer, norm) if part is not None for one in part._parameters.values()]
            once = uses[layer] == uses[norm] == 1 and all(one is None or tensors[one] == 1 for one in own)
            if once and foldable(layer, norm) and wanted(join(prefix, join(path, layer_name))):
                _fold_pair(module, layer_name, norm_name)
                done.append(join(prefix, join(path, norm_name)))
    return done


def foldable(layer: nn.Module | None, norm: nn.Module | None) -> bool:
    """Whether the norm is a batch norm with running statistics for the output channels of a layer that is quantized."""
    if not isinstance(layer, _LAYERS) or is_quantized(layer) or factory_of(layer) is None:
        return False
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return False
    if _NORMS.match(type(norm)) is None:
        return False
    # A weight that is computed from others (spectral norm) is not a parameter of the layer.
    plain = layer._parameters.get("weight") is not None and not layer._forward_pre_hooks
    grouped = isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return plain and not grouped and channels == norm.num_features


def fold_state(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict in which the norms that the model has folded are folded too, for comparisons of keys.

    Args:
        model: A model, folded or not.
        state: The state dict of any form of the model; not changed.
    """
    state = dict(state)
    # With duplicates: a module that occurs in several places has keys for each.
    for name, module in model.named_modules(remove_duplicate=False):
        for folded in module.__dict__.get("folded_norms", ()):
            folded(state, f"{name}." if name else "")
    return state


def _fold_pair(module: Any, layer_name: str, norm_name: str) -> None:
    layer, norm = module._modules[layer_name], module._modules[norm_name]
    axis = int(isinstance(layer, nn.ConvTranspose2d))
    values = {key: getattr(norm, key) for key in _STATISTICS}
    weight, bias = fold(layer.weight, layer.bias, values, axis, norm.eps)
    layer.weight.copy_(weight)
    if layer.bias is None:
        layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
    else:
        layer.bias.copy_(bias)
    rest = [norm._modules[key] for key in _NORMS.of(type(norm)) or ()]
    module._modules[norm_name] = (nn.Sequential(*rest) if rest else nn.Identity()).train(norm.training)
    folded = FoldedNorm(layer_name, norm_name, axis, norm.eps)
    module.__dict__.setdefault("folded_norms", []).append(folded)
    module._register_load_state_dict_pre_hook(folded)
