"""The state of a run on disk, and going on from it."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.dist import barrier, get_rank

from ..errors import PSAQError, UsageError
from ..quantization import State, quantizers
from .files import save_tensors

if TYPE_CHECKING:
    from .runner import DFQRunner


def state_path(runner: DFQRunner) -> Path:
    """Where a process keeps its state."""
    return runner.folder / f"dfq_state{get_rank() or ''}.pth"


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
    save_tensors(state, state_path(runner))


def restore_state(runner: DFQRunner) -> None:
    """Go on from the saved state, where there is one.

    Raises:
        UsageError: It belongs to another recipe.
        PSAQError: It cannot be read or lacks a part.
    """
    path = state_path(runner)
    if not path.exists():
        runner.logger.info("nothing to resume: starting anew")
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
        raise PSAQError(f"{path} cannot be read: delete it and start anew") from None
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
