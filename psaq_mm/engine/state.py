"""The state of a run on disk, and going on from it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import barrier, get_rank

from ..errors import PSAQError, UsageError
from ..quantization import State, quantizers
from .files import replacing, write_tensors

if TYPE_CHECKING:
    from .runner import DFQRunner


def state_path(runner: DFQRunner) -> Path:
    """Where a process keeps its state."""
    return runner.folder / f"dfq_state{get_rank() or ''}.pth"


def previous_path(path: Path) -> Path:
    """Where the state before the newest is kept, in case the newest cannot be read."""
    return path.with_suffix(".previous.pth")


def recipe_hash(runner: DFQRunner) -> str:
    """What must be equal for a run to be resumed."""
    recipe = {"model": runner.cfg.model.to_dict(), "dfq": runner.options.to_dict(), "seed": runner.seed}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()


def save_state(runner: DFQRunner) -> None:
    """Save all that the rest of the run depends on."""
    state = {
        **runner.state,
        "recipe": recipe_hash(runner),
        "pool": runner.pool.state_dict(),
        "rng": runner.generator.get_state(),
        "seconds": dict(runner.seconds),
        "student": runner.student.state_dict(),
    }
    path = state_path(runner)
    with replacing(path) as scratch:
        write_tensors(state, scratch)
        if path.exists():
            os.replace(path, previous_path(path))


def newest_state(path: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any] | None]:
    """The newest state that can be read, and where it lies; None where there is none.

    Args:
        path: Of the newest.
        warn: Told where the one before it has to do.

    Raises:
        PSAQError: There are states, and none can be read.
    """
    before = previous_path(path)
    for one in (path, before):
        if not one.exists():
            continue
        try:
            state = torch.load(one, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
            continue
        if one is before:
            warn(f"{path} is missing or cannot be read: going on from the state before it, {before}")
        return one, state
    if path.exists() or before.exists():
        raise PSAQError(f"{path} cannot be read: delete it and start anew")
    return path, None


def restore_state(runner: DFQRunner) -> None:
    """Go on from the saved state, where there is one.

    Raises:
        UsageError: It belongs to another recipe.
        PSAQError: It cannot be read or lacks a part.
    """
    path, state = newest_state(state_path(runner), runner.logger.warning)
    if state is None:
        runner.logger.info("nothing to resume: starting anew")
        return
    if state.pop("recipe") != recipe_hash(runner):
        raise UsageError(f"{path} belongs to another recipe: leave out --resume or choose another --work-dir")
    pool = state.pop("pool")
    if pool["images"] is not None:
        runner.pool.load_state_dict(pool)
    runner.generator.set_state(state.pop("rng"))
    runner.seconds.update(state.pop("seconds"))
    runner.student.load_state_dict(state.pop("student"))
    runner.state = state
    if runner.stage_done("calibrate"):
        uncalibrated = [name for name, quantizer in quantizers(runner.student) if quantizer.state is State.UNCALIBRATED]
        if uncalibrated:
            raise PSAQError(f"{path} is incomplete: delete it and start anew")
    runner.logger.info(f"resumed: done are {', '.join(state.get('done', [])) or 'no stages'}")
    barrier()
