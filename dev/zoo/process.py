"""A run in a process of its own: models may crash, hang or need more memory than there is."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from psaq_mm.compat import import_quietly
from psaq_mm.models import HOSTS

Tell = Callable[[dict[str, Any]], None]
# A process that waits uses no CPU; one of several on a busy machine gets a part of it.
WALL_FACTOR = 5
PARTS = ("datasets", "evaluation", "visualization", "models")


def import_libraries() -> None:
    """Import all libraries once, so that a forked process has them."""
    torch.set_num_threads(1)  # a forked process has no threads of the first
    import_quietly(*(f"{library}.{part}" for library in HOSTS for part in PARTS))


def run_apart(work: Callable[[Tell], None], seconds: float, memory_gib: float) -> dict[str, Any]:
    """Run a function in a forked process with limits; its temporary files are removed, however it ends.

    Args:
        work: Called with a function that takes parts of the row.
        seconds: Limit of CPU time, and a fifth of that of time.
        memory_gib: Limit of the memory that it may take beyond what this process has.

    Returns:
        The parts, merged in their order, and ``seconds``; ``error`` if the process was ended or crashed.
    """
    with tempfile.TemporaryDirectory(prefix="zoo_") as folder:
        return run_in(folder, work, seconds, memory_gib)


def run_in(folder: str, work: Callable[[Tell], None], seconds: float, memory_gib: float) -> dict[str, Any]:
    """:func:`run_apart` with the folder of the temporary files."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(work, sender, seconds, memory_gib, folder), daemon=True)
    began = time.perf_counter()
    deadline = began + WALL_FACTOR * seconds
    process.start()
    sender.close()
    found: dict[str, Any] = {}
    for part in parts_of(receiver, deadline):
        found |= part
    late = process.is_alive() and time.perf_counter() >= deadline
    if late:
        process.kill()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
    receiver.close()
    if late or process.exitcode == -signal.SIGXCPU:
        found["error"] = f"not done after {seconds:g} s of CPU time, or {WALL_FACTOR * seconds:g} s"
    elif process.exitcode:
        found.setdefault("error", f"the process ended with exit code {process.exitcode}")
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def parts_of(receiver: Connection, deadline: float) -> Iterator[dict[str, Any]]:
    """What a process sends until it ends or the time is over."""
    with contextlib.suppress(EOFError):
        while (left := deadline - time.perf_counter()) > 0:
            if receiver.poll(left):
                yield receiver.recv()


def child(work: Callable[[Tell], None], sender: Connection, seconds: float, memory_gib: float, folder: str) -> None:
    """The forked process: nothing on the terminal, limits of CPU time and memory, and a hard end after the work."""
    tempfile.tempdir = folder
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    # The second limit, which kills, leaves time for the signal of the first.
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
    if memory_gib:
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (int(mapped + memory_gib * 2**30),) * 2)
    work(sender.send)
    sender.close()
    os._exit(0)
