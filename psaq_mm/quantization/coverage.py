"""Report of all tensors of a model: which are quantized, and why the others are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import nn

from .convert import OPAQUE, factory_of, is_quantized, join
from .matmul import QuantMatMul
from .policy import QuantPolicy
from .quantizer import Quantizer

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
# norms of libraries that are no subclasses of these
_NORM_NAMES = ("RmsNorm", "SimpleNorm", "FrozenBatchNorm", "EvoNorm", "FilterResponseNorm", "GlobalResponseNorm")


@dataclass(frozen=True)
class CoverageRow:
    """One tensor of the model.

    Attributes:
        name: Module and tensor, e.g. ``'blocks.0.fc1.weight'`` or ``'blocks.0.attn.qk.left'``.
        kind: ``'weight'`` (of a Linear or Conv), ``'activation'``, ``'product'`` (operand or result of a product of
            two activations) or ``'other'`` (biases, norms, tables, notes of adapters).
        bits: Bits, None if FP.
        sqnr: SQNR in dB on the recorded samples, None while unknown.
        reason: Why it is FP; empty if quantized.
    """

    name: str
    kind: str
    bits: int | None
    sqnr: float | None
    reason: str


@dataclass(frozen=True)
class CoverageReport:
    """All rows, in the order of the model's modules.

    Attributes:
        rows: One row per tensor.
    """

    rows: tuple[CoverageRow, ...]

    @property
    def quantized(self) -> int:
        """Number of quantized tensors."""
        return sum(row.bits is not None for row in self.rows)

    @property
    def fp(self) -> int:
        """Number of FP tensors."""
        return len(self.rows) - self.quantized

    def table(self) -> str:
        """Plain text: one line per tensor and a summary by kind."""
        head = ("name", "kind", "bits", "SQNR dB", "why FP")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            lines.append(f"{kind}: {sum(row.bits is not None for row in rows)} of {len(rows)} quantized")
        return "\n".join(lines)

    def to_json(self) -> str:
        """``{"quantized": int, "fp": int, "rows": [{name, kind, bits, sqnr, reason}, ...]}``."""
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"quantized": self.quantized, "fp": self.fp, "rows": rows}, indent=2, allow_nan=False)


def coverage(model: nn.Module, policy: QuantPolicy, prefix: str = "") -> CoverageReport:
    """Lists every parameter, every input of a Linear or Conv and every operand of a product.

    A parameter ``p`` counts as quantized if its module has a quantizer named ``p_quantizer``. A module may give reasons
    for its FP tensors in an attribute ``fp_notes: dict[str, str]``. A note whose key is a parameter or operand is its
    reason; any other note becomes an additional row, e.g. ``{'softmax': 'scheme deploy keeps the softmax FP'}``.

    Args:
        model: A quantized model, or a model with quantized parts.
        policy: The policy it was quantized with.
        prefix: The ``prefix`` it was quantized with.
    """
    rows: list[CoverageRow] = []
    inside: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, OPAQUE):
            inside.append(f"{path}." if path else "")
        if not isinstance(module, Quantizer):
            opaque = any(path.startswith(parent) for parent in inside)
            rows.extend(_module_rows(module, join(prefix, path), policy, opaque))
    return CoverageReport(tuple(rows))


def _module_rows(module: nn.Module, name: str, policy: QuantPolicy, opaque: bool) -> Iterator[CoverageRow]:
    notes = dict(getattr(module, "fp_notes", {}))
    found = {key: child for key, child in module._modules.items() if isinstance(child, Quantizer)}
    why = "part of an attention that calls it functionally" if opaque else _reason(module, name, policy)
    matrix = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))

    for key, parameter in module._parameters.items():
        if parameter is not None:
            weight = key.endswith("weight") and (matrix or isinstance(module, OPAQUE))
            reason = notes.pop(key, "") or ("biases stay FP" if matrix and key == "bias" else why)
            quantizer = found.pop(f"{key}_quantizer", None)
            yield _row(join(name, key), "weight" if weight else "other", quantizer, reason)

    kind, operands = _operands(module)
    for key in operands:
        yield _row(join(name, key), kind, found.pop(f"{key}_quantizer", None), notes.pop(key, "") or why)
    for key, left_over in found.items():
        yield _row(join(name, key.removesuffix("_quantizer")), kind, left_over, "")
    for key, note in notes.items():
        yield _row(join(name, key), "other", None, note)


def _operands(module: nn.Module) -> tuple[str, tuple[str, ...]]:
    """The operands of the module's matrix products: the kind of their rows, and their names."""
    if isinstance(module, QuantMatMul):
        return "product", ("left", "right")
    if isinstance(module, OPAQUE):
        return "product", ("query", "key", "softmax", "value")
    return "activation", ("input",) if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) else ()


def _row(name: str, kind: str, quantizer: Quantizer | None, reason: str) -> CoverageRow:
    if quantizer is None:
        return CoverageRow(name, kind, None, None, reason)
    return CoverageRow(name, kind, quantizer.spec.bits, quantizer.sqnr, "")


def _reason(module: nn.Module, name: str, policy: QuantPolicy) -> str:
    """Why the tensors of a module that have no quantizer stay FP."""
    kept = policy.fp_reason(name)
    if kept:
        return kept
    if is_quantized(module):
        return "no quantizer was asked for"
    if isinstance(module, _NORMS) or type(module).__name__.startswith(_NORM_NAMES):
        return "normalisation stays FP"
    if isinstance(module, nn.Embedding):
        return "embedding tables stay FP"
    if isinstance(module, OPAQUE):
        return f"{type(module).__name__} calls its projections functionally: register an adapter for it"
    if factory_of(module) is not None:
        return "not converted: outside the quantized part"
    if any(True for _ in module.children()):
        return "bare parameters stay FP"
    return f"{type(module).__name__} has no quantized sibling: register one with register_quantized"


def _cells(row: CoverageRow) -> tuple[str, ...]:
    sqnr = "-" if row.sqnr is None else f"{row.sqnr:.1f}"
    return row.name, row.kind, "FP" if row.bits is None else str(row.bits), sqnr, row.reason or "-"
