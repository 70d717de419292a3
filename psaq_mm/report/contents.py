"""What a report shows, as plain data: numbers, text and encoded pictures, without tensors and models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Picture:
    """An encoded picture.

    Attributes:
        title: Text above it.
        description: What it shows, for readers who cannot see it.
        uri: The file as a ``data:`` URI.
        width: In pixels.
        height: In pixels.
    """

    title: str
    description: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Comparison:
    """The predictions of the float and of the quantized model on one picture.

    Attributes:
        name: The picture's name.
        pictures: What is shown side by side.
        columns: Heads of the table of predictions.
        rows: One a class; the first cell is the class, the others are formatted numbers.
        colours: For each row a colour ``#rrggbb`` in the pictures, empty for none.
        shares: For each row the lengths of two bars from 0 to 1, of the float and of the quantized model; empty for
            a table without bars.
        generated: Whether the picture is a generated one.
        remark: What the pictures leave out; empty for nothing.
    """

    name: str
    pictures: tuple[Picture, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[str, ...] = ()
    shares: tuple[tuple[float, float], ...] = ()
    generated: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Histogram:
    """The values that a quantizer rounds, and the range of its grid.

    Attributes:
        name: Layer and tensor, such as ``'backbone.blocks.0.fc1.weight'``.
        kind: ``'weight'`` or ``'activation'``.
        bits: Bits of the grid.
        sqnr: In dB; None if unknown.
        unit: ``'value'``, or ``'step'``: values divided by the scale of their channel, plus its zero point.
        low: Lower end of the grid, in this unit.
        high: Upper end.
        scale: The scale; the median of several.
        scales: Number of scales.
        start: Lower end of the first bin.
        stop: Upper end of the last bin.
        counts: Number of values in each bin; all bins have the same width.
        below: Number of values below the first bin.
        above: Number of values above the last bin.
        clipped: Number of values that are more than half a step outside the grid.
        minimum: Smallest value, in this unit.
        maximum: Largest value.
    """

    name: str
    kind: str
    bits: int
    sqnr: float | None
    unit: str
    low: float
    high: float
    scale: float
    scales: int
    start: float
    stop: float
    counts: tuple[int, ...]
    below: int
    above: int
    clipped: int
    minimum: float
    maximum: float

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts) + self.below + self.above


@dataclass(frozen=True)
class Report:
    """All contents of a report.

    Attributes:
        title: Name of the recipe or of the model.
        facts: Model, bits, data set, seed and so on, in the order in which they are shown.
        command: What was run.
        versions: Versions of the packages by import name.
        rows: The rows of ``results.json``; empty for a model in memory.
        no_figures: Why there are no figures; empty if there are.
        verdict: What the models show without labels, one sentence or more in each text.
        samples: The newest generated images in a grid; None if they cannot be drawn.
        comparisons: Predictions on pictures.
        coverage: The rows of ``coverage.json``.
        histograms: Those of the quantizers with the lowest SQNR.
        notes: By section: what is missing, and why.
        remarks: By section: what its contents are.
        recipe: The ``dfq`` section as text.
    """

    title: str
    facts: dict[str, str]
    command: str
    versions: dict[str, str]
    rows: tuple[dict[str, Any], ...] = ()
    no_figures: str = ""
    verdict: tuple[str, ...] = ()
    samples: Picture | None = None
    comparisons: tuple[Comparison, ...] = ()
    coverage: tuple[dict[str, Any], ...] = ()
    histograms: tuple[Histogram, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    recipe: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The contents for JSON, of schema 1."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The report of :meth:`to_dict`, also after a way through JSON."""
        data = {key: value for key, value in data.items() if key != "schema"}
        data["samples"] = data["samples"] and Picture(**data["samples"])
        data["comparisons"] = tuple(_comparison(one) for one in data["comparisons"])
        data["histograms"] = tuple(Histogram(**{**one, "counts": tuple(one["counts"])}) for one in data["histograms"])
        return cls(
            **{
                **data,
                "rows": tuple(data["rows"]),
                "verdict": tuple(data.get("verdict", ())),
                "coverage": tuple(data["coverage"]),
            }
        )


def _comparison(data: dict[str, Any]) -> Comparison:
    nested = {key: tuple(tuple(one) for one in data[key]) for key in ("rows", "shares")}
    flat = {key: tuple(data[key]) for key in ("columns", "colours")}
    pictures = tuple(Picture(**one) for one in data["pictures"])
    return Comparison(**{**data, **nested, **flat, "pictures": pictures})
