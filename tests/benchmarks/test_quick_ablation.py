"""The quick ablation: its recipes exist, and networks without data are left out with the variable to set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import quick_ablation
from benchmarks.quick_ablation import INSTRUMENTS, ROOT, Instrument, missing
from psaq_mm.engine.results import Results


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda one: one.name)
def test_an_instruments_recipe_exists_and_reads_its_variables(instrument):
    texts = [path.read_text() for path in (ROOT / instrument.config).parent.glob("*.py")]
    assert (ROOT / instrument.config).is_file()
    assert all(any("{{$" + name + ":" in text for text in texts) for name in instrument.needs)


def test_variables_are_missing_when_unset_empty_or_wrong(monkeypatch, tmp_path):
    instrument = Instrument("a.py", needs=("QUICK_A", "QUICK_B", "QUICK_C"))
    monkeypatch.delenv("QUICK_A", raising=False)
    monkeypatch.setenv("QUICK_B", str(tmp_path / "none"))
    monkeypatch.setenv("QUICK_C", str(tmp_path))
    assert missing(instrument) == ["QUICK_A", "QUICK_B"]
    monkeypatch.setenv("QUICK_C", "")
    assert missing(instrument) == list(instrument.needs)


def test_the_table_has_the_rows_of_what_was_measured(monkeypatch, tmp_path, capsys):
    record = Results.from_dict(json.loads((ROOT / "results/demo_upernet.json").read_text()))
    seen = []

    def measure(instrument: Instrument, folder: Path) -> Results:
        seen.append((instrument.config, folder))
        return record

    for name in {name for one in INSTRUMENTS for name in one.needs}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(quick_ablation, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["quick_ablation", "--work-dir", str(tmp_path)])
    assert quick_ablation.main() == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert [config for config, _ in seen] == [one.config for one in INSTRUMENTS if not one.needs]
    assert "dinov2_saliency/vit_small_w8a8.py is left out: set DINOV2_FOCUS_ROOT to its data" in printed
    assert "fp32" in printed and "psaq-calib" in printed and "W4A8" in printed
