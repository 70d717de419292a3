"""Bit widths for a budget: the widths with the least sum of sensitivities that fit into a size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from ..errors import UsageError
from .sensitivity import OUTPUTS, Sensitivity, score_values

KINDS = ("size", "bops")
FLOAT_BITS = 32
Key = tuple[str, str]


@dataclass(frozen=True)
class Budget:
    """The largest cost of a model, as a share of its cost in float32.

    Attributes:
        kind: ``'size'``: the weights of the quantized layers; 4 bits are 0.125. ``'bops'``: for each multiplication of
            the quantized layers the product of the bits of its operands; 4 and 8 bits are 32 / 1024 = 0.03125.
        share: The share.
    """

    kind: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``'size=0.125'`` or ``'bops=0.03'``.

        Raises:
            UsageError: The text is neither.
        """
        kind, _, number = text.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if kind not in KINDS or not 0 < share <= 1:
            raise UsageError(f"budget {text!r} is not valid: write size=0.125 or bops=0.03, a share of FP32 up to 1")
        return cls(kind, share)

    def check(self, widths: Iterable[int], tensors: str = "all") -> None:
        """Check before an analysis that its rows will allow the budget.

        Args:
            widths: The bit widths that it measures.
            tensors: ``'all'``, ``'weights'`` or ``'activations'``.

        Raises:
            UsageError: They will not.
        """
        needed = {"size": ("all", "weights"), "bops": ("all",)}[self.kind]
        if tensors not in needed:
            raise UsageError(f"a budget of {self.kind} needs the sensitivity of {needed[0]} tensors: use --tensors all")
        least = min(widths)
        share = least / FLOAT_BITS if self.kind == "size" else (least / FLOAT_BITS) ** 2
        if self.share < share:
            raise UsageError(
                f"budget {self.kind}={self.share:g} is below what {least} bits everywhere need, {share:.4g}: "
                "raise it or measure fewer bits"
            )


@dataclass(frozen=True)
class Option:
    """Bit widths of the tensors of one layer.

    Attributes:
        bits: Bits by layer and tensor.
        cost: What they cost, in the unit of the budget.
        score: The sum of their sensitivities.
    """

    bits: Mapping[Key, int]
    cost: float
    score: float


@dataclass(frozen=True)
class Allocation:
    """The result of :func:`allocate`.

    Attributes:
        bits: Bits by layer and tensor, of the tensors that the budget counts.
        score: The sum of the sensitivities, which was minimised.
        share: The cost as a share of that in float32.
        gap: The largest possible distance of ``score`` from the least one, relative to it; 0 for an exact solution.
    """

    bits: Mapping[Key, int]
    score: float
    share: float
    gap: float

    def overrides(self, usual: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
        """The bits as overrides of a policy, for those layers whose bits differ from the usual ones.

        Args:
            usual: Bits of each layer's tensors without the overrides.
        """
        by_layer: dict[str, dict[str, int]] = {}
        for (layer, tensor), bits in self.bits.items():
            if bits != usual.get(layer, {}).get(tensor):
                by_layer.setdefault(layer, {})["weight_bits" if tensor == "weight" else "activation_bits"] = bits
        return [{"pattern": layer, **keys} for layer, keys in by_layer.items()]


def allocate(
    rows: Sequence[Sensitivity], budget: Budget, operations: Mapping[str, int] | None = None, score: str = OUTPUTS
) -> Allocation:
    """Choose the bits of each tensor among the measured widths.

    With the sensitivity ``s_ib`` of tensor i at b bits and its cost ``c_ib``, the chosen widths are the solution of a
    multiple-choice knapsack problem, found by HiGHS (``scipy.optimize.milp``)::

        minimise  sum_i s_i,b(i)    with    sum_i c_i,b(i) <= budget

    The sum assumes that the effects of tensors add up. For ``bops``, the two operands of an attention product get the
    same bits.

    Example: two weights of 100 values with sensitivities 0.1 and 0.9 at 4 bits, 0 at 8 bits. A size of 6 / 32 allows
    8 bits for one of them: the second one gets them.

    Args:
        rows: The sensitivities.
        budget: The budget.
        operations: Multiplications of each layer, for ``bops``.
        score: Which sensitivity (:func:`psaq_mm.analysis.sensitivity.score_values`).

    Raises:
        UsageError: The rows have no such sensitivity, or the smallest widths exceed the budget.
    """
    options = size_options(rows, score) if budget.kind == "size" else bops_options(rows, operations or {}, score)
    if not options:
        raise UsageError("no tensor has a measured width that this budget counts: measure weights at several widths")
    whole = sum(full_cost(one[0], rows, budget.kind, operations or {}) for one in options)
    limit = budget.share * whole
    least = sum(min(option.cost for option in one) for one in options)
    if least > limit:
        raise UsageError(
            f"budget {budget.kind}={budget.share:g} is below what the smallest measured widths need, "
            f"{least / whole:.4g}: raise it or measure fewer bits"
        )
    chosen, gap = solve(options, limit)
    bits = {key: width for option in chosen for key, width in option.bits.items()}
    return Allocation(bits, sum(option.score for option in chosen), sum(option.cost for option in chosen) / whole, gap)


def by_tensor(rows: Sequence[Sensitivity], score: str) -> dict[Key, dict[int, float]]:
    """The sensitivity of each tensor at each of its widths.

    Raises:
        UsageError: A row has no such sensitivity.
    """
    found: dict[Key, dict[int, float]] = {}
    for row, value in zip(rows, score_values(rows, score), strict=True):
        if value is None:
            raise UsageError(f"the analysis has no score {score!r}: use 'features', or measure it with --scores")
        found.setdefault(row.key, {})[row.bits] = value
    return found


def size_options(rows: Sequence[Sensitivity], score: str) -> list[list[Option]]:
    """The widths of each weight; the cost is in bits."""
    sizes = {row.key: row.parameters for row in rows if row.tensor == "weight"}
    found = by_tensor(rows, score)
    return [
        [Option({key: bits}, count * bits, value) for bits, value in found[key].items()] for key, count in sizes.items()
    ]


def bops_options(rows: Sequence[Sensitivity], operations: Mapping[str, int], score: str) -> list[list[Option]]:
    """The pairs of widths of the operands of each layer; the cost is their product for each multiplication."""
    found = by_tensor(rows, score)
    layers = dict.fromkeys(row.layer for row in rows if row.layer in operations)
    options = []
    for layer in layers:
        count = operations[layer]
        if (layer, "weight") in found and (layer, "input") in found:
            weight, other = found[layer, "weight"], found[layer, "input"]
            options.append(
                [
                    Option({(layer, "weight"): w, (layer, "input"): a}, count * w * a, weight[w] + other[a])
                    for w, a in product(weight, other)
                ]
            )
        elif (layer, "left") in found and (layer, "right") in found:
            left, right = found[layer, "left"], found[layer, "right"]
            options.append(
                [
                    Option({(layer, "left"): b, (layer, "right"): b}, count * b * b, left[b] + right[b])
                    for b in left
                    if b in right
                ]
            )
    return options


def full_cost(option: Option, rows: Sequence[Sensitivity], kind: str, operations: Mapping[str, int]) -> float:
    """The cost of a layer in float32."""
    if kind == "bops":
        return operations[next(iter(option.bits))[0]] * FLOAT_BITS**2
    (key,) = option.bits
    return next(row.parameters for row in rows if row.key == key) * FLOAT_BITS


def solve(options: Sequence[Sequence[Option]], limit: float) -> tuple[list[Option], float]:
    """One option of each list with the least sum of scores whose costs sum up to the limit at most.

    Returns:
        The options, and the relative gap to the least sum.
    """
    flat = [option for one in options for option in one]
    owners = [index for index, one in enumerate(options) for _ in one]
    costs = np.array([option.cost for option in flat]) / limit
    scores = np.array([option.score for option in flat])
    # Scores differ by many powers of ten; the solver's tolerances are absolute.
    unit = scores.max() or 1.0
    one_each = csr_matrix((np.ones(len(flat)), (owners, range(len(flat)))), shape=(len(options), len(flat)))
    found = milp(
        scores / unit,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs[None], -np.inf, 1 + 1e-12)],
        options={"mip_rel_gap": 0.0, "time_limit": 60.0},
    )
    if found.x is None:
        raise UsageError(f"the solver found no bit widths for this budget ({found.message}): raise the budget")
    chosen = [option for option, taken in zip(flat, found.x, strict=True) if taken > 0.5]
    return chosen, float(found.mip_gap or 0.0)
