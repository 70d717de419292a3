"""The contents of a report and their way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from psaq_mm.report import Report


def test_the_contents_survive_json(report):
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_an_empty_report_survives_json():
    report = Report("title", {}, "command", {})
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_values_of_a_histogram_are_all_counted(report):
    (one, _) = report.histograms
    assert one.total == sum(one.counts) + 3


def test_contents_of_a_run_before_there_were_verdicts(report):
    data = json.loads(json.dumps(report.to_dict()))
    del data["verdict"]
    assert Report.from_dict(data) == replace(report, verdict=())
