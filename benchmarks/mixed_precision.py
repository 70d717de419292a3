"""Compare mixed precision with uniform bits: sizes and figures of finished runs of one model.

    python tools/analyze.py CONFIG --bits w4a8 --widths 6 5 4 3 --tensors weights --budget size=0.125 --work-dir A
    python tools/dfq.py A/mixed.py --work-dir MIXED
    python tools/dfq.py CONFIG_W4A8 --work-dir UNIFORM \\
        --cfg-options dfq.quantization.first_layer=None dfq.quantization.last_layers=None
    python -m benchmarks.mixed_precision NAME A/sensitivity.json "4 bits=UNIFORM" "3 to 6 bits=MIXED" \\
        -o results/mixed_precision.json

The first run is what the others are compared with. The size is that of the weights of the layers that were analyzed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from psaq_mm.analysis.budget import FLOAT_BITS
from psaq_mm.cli import CONSOLE, run_tool
from psaq_mm.engine.analysis.table import SensitivityTable
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.utils.atomic_files import save_json, writable_file
from psaq_mm.utils.metrics import metric_of
from psaq_mm.utils.records import merge_record, read_record
from psaq_mm.visualization.record_tables import record_markdown

TOOL = "mixed_precision"


def share_of(table: SensitivityTable, coverage: dict[str, Any]) -> float:
    """The size of the analyzed weights in a run, as a share of 32 bits each.

    Args:
        table: The analysis, which has the number of values of each weight.
        coverage: ``coverage.json`` of the run, which has their bits.

    Raises:
        UsageError: The run has no such layers.
    """
    bits = {row["name"]: row["bits"] or FLOAT_BITS for row in coverage["rows"] if row["kind"] == "weight"}
    sizes = {f"{row.layer}.weight": row.parameters for row in table.rows if row.tensor == "weight"}
    if not sizes or not sizes.keys() <= bits.keys():
        raise UsageError("the run has other layers than the analysis: give runs of the analyzed model")
    return sum(count * bits[name] for name, count in sizes.items()) / (FLOAT_BITS * sum(sizes.values()))


def row_of(name: str, label: str, folder: Path, table: SensitivityTable) -> dict[str, Any]:
    """The row of a run.

    Raises:
        PSAQError: The folder has no finished run.
    """
    try:
        results = json.loads((folder / "results.json").read_text())
        coverage = json.loads((folder / "coverage.json").read_text())
        before, after = results["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise PSAQError(f"{folder} has no finished run ({type(error).__name__}): run tools/dfq.py") from None
    return {
        "model": name,
        "bits": "W{}A{}".format(after["weight_bits"], after["activation_bits"]),
        "size": str(after["seed"]),
        "part": label,
        "share": round(share_of(table, coverage), 4),
        "float": {key: value for key, value in before["metrics"].items() if metric_of(key)},
        "metrics": {key: value for key, value in after["metrics"].items() if metric_of(key)},
        "closeness": after["closeness"],
    }


def main() -> int:
    """Parse, read, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the rows call the model")
    parser.add_argument("analysis", type=Path, help="sensitivity.json")
    parser.add_argument("runs", nargs="+", metavar="LABEL=DIR", help="work dirs of tools/dfq.py")
    parser.add_argument("-o", "--out", type=Path, default=Path("mixed_precision.json"))
    args = parser.parse_args()
    record = read_record(writable_file(args.out), TOOL)
    table = SensitivityTable.load(args.analysis)
    rows = []
    for run in args.runs:
        label, _, folder = run.partition("=")
        if not folder:
            raise UsageError(f"run {run!r} has no folder: write LABEL=DIR")
        rows.append(row_of(args.name, label, Path(folder), table))
    record = merge_record(record, {"rows": rows})
    save_json(record, args.out)
    CONSOLE.print(record_markdown(record), soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
