"""Bit widths for a budget: the widths with the least sum of sensitivities that fit into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from ..errors import UsageError
from .costs import COSTS, FLOAT_BITS, Measured, Option
from .sensitivity import OUTPUTS, Sensitivity, score_values

Key = tuple[str, str]
# Why a layer stays in floating point, for the coverage report.
REASON = "chosen by a budget"


@dataclass(frozen=True)
class Budget:
    """The largest cost of a model, as a share of its cost in float32.

    Attributes:
        kind: The name of a cost (:mod:`psaq_mm.analysis.costs`). ``'size'``: the weights of the quantized layers; 4
            bits are 0.125. ``'bops'``: for each multiplication of the quantized layers the product of the bits of its
            operands; 4 and 8 bits are 32 / 1024 = 0.03125. ``'latency'``: the time of the quantized layers in an
            engine.
        share: The share.
    """

    kind: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``'size=0.125'``, ``'bops=0.03'`` or ``'latency=0.5'``.

        Raises:
            UsageError: The text is none of them.
        """
        kind, _, number = text.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if kind not in COSTS.names or not 0 < share <= 1:
            raise UsageError(
                f"budget {text!r} is not valid: write size=0.125, bops=0.03 or latency=0.5, a share of FP32 up to 1"
            )
        return cls(kind, share)

    def check(self, widths: Iterable[int], tensors: str = "all") -> None:
        """Check before an analysis that its rows will allow the budget.

        Args:
            widths: The bit widths that it measures.
            tensors: ``'all'``, ``'weights'`` or ``'activations'``.

        Raises:
            UsageError: They will not.
        """
        cost = COSTS.get(self.kind)
        if tensors not in cost.tensors:
            needed = cost.tensors[0]
            raise UsageError(f"a budget of {self.kind} needs the sensitivity of {needed} tensors: use --tensors all")
        cost.check(self.share, list(widths))


@dataclass(frozen=True)
class Allocation:
    """The result of :func:`allocate`.

    Attributes:
        bits: Bits by layer and tensor, of the tensors that the budget counts; 32 for floating point.
        score: The sum of the sensitivities, which was minimised.
        cost: The cost, in the unit of the budget: bits of weights, products of bits, or seconds.
        whole: The cost in float32.
        gap: The largest possible distance of ``score`` from the least one, relative to it; 0 for an exact solution.
    """

    bits: Mapping[Key, int]
    score: float
    cost: float
    whole: float
    gap: float

    @property
    def share(self) -> float:
        """The cost as a share of that in float32."""
        return self.cost / self.whole

    def layers(self, floating: bool) -> list[str]:
        """Names of the layers that stay in floating point, or of those that do not."""
        return list(dict.fromkeys(key[0] for key, bits in self.bits.items() if (bits == FLOAT_BITS) == floating))

    def overrides(self, usual: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
        """The bits as overrides of a policy, for those layers whose bits differ from the usual ones.

        Args:
            usual: Bits of each layer's tensors without the overrides.
        """
        by_layer: dict[str, dict[str, Any]] = {}
        for (layer, tensor), bits in self.bits.items():
            if bits == FLOAT_BITS:
                by_layer[layer] = {"keep_fp": True, "reason": REASON}
            elif bits != usual.get(layer, {}).get(tensor):
                by_layer.setdefault(layer, {})["weight_bits" if tensor == "weight" else "activation_bits"] = bits
        return [{"pattern": layer, **keys} for layer, keys in by_layer.items()]


def allocate(
    rows: Sequence[Sensitivity],
    budget: Budget,
    operations: Mapping[str, int] | None = None,
    score: str = OUTPUTS,
    times: Mapping[str, Mapping[str, float]] | None = None,
) -> Allocation:
    """Choose the bits of each tensor among the measured widths.

    With the sensitivity ``s_ib`` of tensor i at b bits and its cost ``c_ib``, the chosen widths are the solution of a
    multiple-choice knapsack problem, found by HiGHS (``scipy.optimize.milp``)::

        minimise  sum_i s_i,b(i)    with    sum_i c_i,b(i) <= budget

    The sum assumes that the effects of tensors add up. For ``bops``, the two operands of an attention product get the
    same bits; for ``latency``, a layer may stay in floating point.

    Example: two weights of 100 values with sensitivities 0.1 and 0.9 at 4 bits, 0 at 8 bits. A size of 6 / 32 allows
    8 bits for one of them: the second one gets them.

    Args:
        rows: The sensitivities.
        budget: The budget.
        operations: Multiplications of each layer, for ``bops``.
        score: Which sensitivity (:func:`psaq_mm.analysis.sensitivity.score_values`).
        times: Seconds of each layer, for ``latency`` (:class:`psaq_mm.analysis.costs.Measured`).

    Raises:
        UsageError: The rows have no such sensitivity, or the smallest widths exceed the budget.
    """
    cost = COSTS.get(budget.kind)
    parameters = {row.key: row.parameters for row in rows if row.tensor == "weight"}
    choices = cost.choices(Measured(by_tensor(rows, score), parameters, operations or {}, times or {}))
    if not choices:
        raise UsageError("no tensor has a measured width that this budget counts: measure weights at several widths")
    whole = sum(choice.whole for choice in choices)
    limit = budget.share * whole
    least = sum(min(option.cost for option in choice.options) for choice in choices)
    if least > limit:
        raise UsageError(
            f"budget {budget.kind}={budget.share:g} is below the least that the measured widths allow, "
            f"{least / whole:.4g}: {cost.advice}"
        )
    chosen, gap = solve([choice.options for choice in choices], limit)
    bits = {key: width for option in chosen for key, width in option.bits.items()}
    spent = sum(option.cost for option in chosen)
    return Allocation(bits, sum(option.score for option in chosen), spent, whole, gap)


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
