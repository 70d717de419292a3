"""Filter of the log on a terminal that shows progress bars."""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.dist import is_main_process

PACKAGE = Path(__file__).parents[1]


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record comes from this package or is an error; warnings of libraries only go to the log file."""
    return record.levelno >= logging.ERROR or Path(record.pathname).is_relative_to(PACKAGE)


def keep_terminal_quiet(logger: logging.Logger) -> None:
    """Show only errors and the warnings of this package on the terminal; log files are not filtered.

    In a distributed run, only the main process shows warnings.
    """
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # FileHandler is a subclass
            handler.setLevel(logging.WARNING if is_main_process() else logging.ERROR)
            handler.addFilter(is_ours)
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
