"""SIGTERM, which schedulers send before they kill: the run ends at its next step and can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(Exception):
    """The run was asked to end; it can be resumed from the last state saved."""

    exit_code = 128 + signal.SIGTERM


class Termination:
    """Whether the process was asked to end.

    Attributes:
        requested: Set by the first SIGTERM; a second one ends the process at once.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM instead of dying from it. Only a process's main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)

        def note(*_: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def check(self) -> None:
        """End here if asked to.

        Raises:
            Terminated: It was.
        """
        if self.requested:
            raise Terminated("terminated: go on with --resume")
