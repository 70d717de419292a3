"""Handling of SIGTERM, which schedulers send before they kill a process: the run saves its state and stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(Exception):
    """The run was stopped by SIGTERM; it can be resumed from the last saved state."""

    exit_code = 128 + signal.SIGTERM


class Termination:
    """Records a SIGTERM, so that the run stops at its next step.

    Attributes:
        requested: Whether SIGTERM was received; a second one ends the process at once.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record SIGTERM in the block instead of ending the process; without effect outside the main thread."""
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
        """Stop the run if SIGTERM was received.

        Raises:
            Terminated: SIGTERM was received.
        """
        if self.requested:
            raise Terminated("terminated")
