"""What quantization is expected to cost a model, which layers cause it, and the overrides that help."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ...analysis.expected import CURVES, NOISE, Estimate
from ...analysis.gradients import gradient_scores
from ...analysis.probe import Probe, layer_weights
from ...models import backbone_outputs
from ...models.hosts import kinds_of
from ...utils.metrics import METRICS
from ..builder import build_student
from ..runner import DFQRunner
from .closeness import attempt, present, reference, unseen_crops

# The figures that a host's models are judged by.
FIGURES = {
    "mmpretrain.BaseClassifier": ("top1",),
    "mmseg.BaseSegmentor": ("mIoU",),
    "mmdet.BaseDetector": ("bbox_mAP", "segm_mAP"),
}
SCORE = "gauss_newton"
# The name of the recipe with more bits for the layers with the largest errors.
RECIPE = "more_bits.py"
IMAGES, WORST = 4, 3
# At these bits a layer's error is so small that more of them are seldom worth their memory.
MORE_BITS = 8


@dataclass(frozen=True)
class Verdict:
    """What a run's models show without labels.

    Attributes:
        expected: The expected loss by figure, as shares of the float model's.
        layers: The number of quantized layers.
        worst: The layers with the largest errors, and their shares of the sum over all layers.
        relieved: The expected loss if these layers were in floating point.
        overrides: Overrides of the policy for these layers.
        growth: By how many bytes the weights then grow.
    """

    expected: Mapping[str, Estimate]
    layers: int = 0
    worst: Mapping[str, float] = field(default_factory=dict)
    relieved: Mapping[str, Estimate] = field(default_factory=dict)
    overrides: tuple[dict[str, Any], ...] = ()
    growth: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON; estimates as ``[low, expected, high]``."""
        return {**asdict(self), "overrides": list(self.overrides)}

    @property
    def helps(self) -> bool:
        """Whether less is expected to be lost without the errors of these layers, by more than test sets can show."""
        both = self.expected.keys() & self.relieved.keys()
        return any(self.expected[key].expected - self.relieved[key].expected > NOISE for key in both)

    def sentences(self) -> list[str]:
        """The verdict in words."""
        said = []
        if self.expected:
            said.append(f"Expected loss, as a share of the float model's figure: {listed(self.expected)}.")
        if self.worst:
            total = 100 * sum(self.worst.values())
            said.append(
                f"Of the error of the backbone's outputs, {total:.0f} % comes from {len(self.worst)} of {self.layers} "
                f"layers: {', '.join(self.worst)}."
            )
        if self.helps:
            said.append(
                f"If they had no error: {listed(self.relieved)}. {RECIPE} is the recipe with more bits for them, "
                f"and {self.growth / 1024:,.0f} KiB more of weights."
            )
        elif self.worst and self.expected:
            said.append("More bits for them would gain nothing that can be measured.")
        return said


def listed(estimates: Mapping[str, Estimate]) -> str:
    """Estimates of several figures: ``'box AP 1.2 % (0.5 to 2.9), mask AP 1.0 % (0.4 to 2.5)'``."""
    return ", ".join(f"{METRICS[key].title} {in_words(one)}" for key, one in estimates.items())


def in_words(estimate: Estimate) -> str:
    """An estimate in per cent: ``'1.2 % (0.5 to 2.9)'``."""
    low, expected, high = (100 * one for one in estimate)
    return f"{expected:.1f} % ({low:.1f} to {high:.1f})"


def expected_losses(model: nn.Module, distances: Mapping[str, float]) -> dict[str, Estimate]:
    """The expected loss of the figures that a model is judged by.

    Args:
        model: The float model.
        distances: ``features`` and ``logits`` of the quantized model.

    Returns:
        Estimates by figure; empty for models without a curve (:data:`psaq_mm.analysis.expected.CURVES`).
    """
    kinds = kinds_of(model)
    names = next((names for kind, names in FIGURES.items() if kind in kinds), ())
    found = {}
    for name in names:
        if name == "segm_mAP" and not has_masks(model):
            continue
        curve = next((one for one in CURVES.get(name, ()) if one.distance in distances), None)
        if curve is not None:
            found[name] = curve.estimate(distances[curve.distance])
    return found


def has_masks(model: nn.Module) -> bool:
    """Whether a detector computes masks."""
    return bool(getattr(model, "with_mask", False) or getattr(getattr(model, "roi_head", None), "with_mask", False))


def verdict(runner: DFQRunner, distances: Mapping[str, float]) -> Verdict:
    """Judge the models of a finished run.

    Each layer's share is that of its tensors in the sum of :class:`psaq_mm.analysis.scores.gauss_newton.GaussNewton`
    over all tensors, on :data:`IMAGES` crops.

    Args:
        runner: A runner after ``train()``.
        distances: Its :func:`.closeness.closeness`.

    Returns:
        The verdict; without layers, and with a warning in the log, for a model that cannot be probed.
    """
    none: dict[str, Estimate] = {}
    expected = attempt(runner, "judged", lambda: expected_losses(runner.teacher, distances), none)
    plain = Verdict(expected)
    return attempt(runner, "searched for layers with large errors", lambda: with_layers(runner, plain), plain)


def with_layers(runner: DFQRunner, plain: Verdict) -> Verdict:
    """A verdict with the layers that cause the largest errors."""
    untouched = build_student(runner.artifact, runner.teacher).to(runner.device)
    # A copy: probing changes the network.
    probe = Probe(copy.deepcopy(runner.student), None, layer_weights(untouched))
    del untouched
    scores = gradient_scores(probe, [unseen_crops(runner, IMAGES)], backbone_outputs, [SCORE])
    by_layer: dict[str, float] = {}
    for (layer, _), found in scores.items():
        by_layer[layer] = by_layer.get(layer, 0.0) + found[SCORE]
    total = sum(by_layer.values())
    if not total > 0:
        return plain
    names = sorted(by_layer, key=lambda name: -by_layer[name])[:WORST]
    kept = [key for key in probe.quantizers if key[0] not in names]
    with probe.only(kept) as network:
        distances = present(reference(runner).distances(network))
    return Verdict(
        plain.expected,
        len(by_layer),
        {name: by_layer[name] / total for name in names},
        expected_losses(runner.teacher, distances),
        *helpful_overrides(probe, names),
    )


def helpful_overrides(probe: Probe, names: list[str]) -> tuple[tuple[dict[str, Any], ...], int]:
    """Overrides that make the errors of layers small, and by how many bytes the weights grow.

    Layers with fewer bits get eight; those with eight stay in floating point.
    """
    overrides, growth = [], 0
    for name in names:
        bits = {key[1]: one.spec.bits for key, one in probe.quantizers.items() if key[0] == name}
        more = MORE_BITS if min(bits.values()) < MORE_BITS else 32
        overrides.append({"pattern": name, **({"keep_fp": True} if more == 32 else {"bits": more})})
        if "weight" in bits:
            growth += probe.float_weights[name].numel() * (more - bits["weight"]) // 8
    return tuple(overrides), growth
