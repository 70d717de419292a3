"""Errors that speak to the user: one line, what is wrong and what to do."""

from __future__ import annotations


class PSAQError(Exception):
    """A run cannot go on. Tools print the message without a traceback and exit with ``exit_code``."""

    exit_code = 1


class UsageError(PSAQError):
    """The command line or the config asks for something that cannot be."""

    exit_code = 2
