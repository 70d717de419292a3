"""The report of a run: one HTML file with figures, pictures, charts, coverage, time, memory and versions."""

from .build import Run, call_text, command_line, conditions, report_of
from .contents import Comparison, Histogram, Picture, Report
from .inputs import picture_files
from .model_report import write_model_report
from .render import render, rewrite_report, write_report

__all__ = [
    "Comparison",
    "Histogram",
    "Picture",
    "Report",
    "Run",
    "call_text",
    "command_line",
    "conditions",
    "picture_files",
    "render",
    "report_of",
    "rewrite_report",
    "write_model_report",
    "write_report",
]
