"""What of a run's log reaches a terminal that shows its progress."""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.dist import is_main_process

PACKAGE = Path(__file__).parents[1]


def is_ours(record: logging.LogRecord) -> bool:
    """Whether the run itself speaks, or something failed: what libraries warn of is in the log file alone."""
    return record.levelno >= logging.ERROR or Path(record.pathname).is_relative_to(PACKAGE)


def keep_terminal_quiet(logger: logging.Logger) -> None:
    """Let only our own warnings and errors through to the terminal, a line each; files get everything.

    Of several processes, only the main one warns.
    """
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # a file's handler is a kind of it
            handler.setLevel(logging.WARNING if is_main_process() else logging.ERROR)
            handler.addFilter(is_ours)
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
