"""The state of a run on disk, and going on from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size

from ..errors import PSAQError, UsageError
from ..quantization import State, quantizers
from ..utils.atomic_files import replacing, write_tensors
from ..utils.image_store import ImageFiles

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
    if get_world_size() > 1:  # each process has its share of the work
        recipe["processes"] = get_world_size()
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()


def image_names(state: dict[str, Any]) -> set[str]:
    """The images that a state needs: the pool's, and the finished ones of a generation that is not over."""
    generated = state.get("generation", {}).get("done", [])
    return {*state["pool"]["names"], *(name for batch in generated for name in batch)}


def save_state(runner: DFQRunner) -> None:
    """Save all that the rest of the run depends on; images lie in files of their own."""
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
    runner.image_files.retain(image_names(state))


def readable_states(path: Path, images: ImageFiles) -> list[tuple[Path, dict[str, Any]]]:
    """The newest state and the one before it, those of them that can be read and whose images are there.

    Raises:
        PSAQError: There are states, and none can be read.
    """
    found, paths = [], [one for one in (path, previous_path(path)) if one.exists()]
    for one in paths:
        try:
            state = torch.load(one, map_location="cpu", weights_only=True)
            images.check(image_names(state))
            found.append((one, state))
        except Exception:  # a flipped bit can make anything of a file; the answer is the same
            continue
    if paths and not found:
        raise PSAQError(f"{path} cannot be read: delete it and start anew")
    return found


def point(state: dict[str, Any]) -> tuple[Any, ...]:
    """How far a run was: what must be equal in all processes that go on together."""
    return state["recipe"], *state.get("done", []), state.get("cycle", 0)


def common_state(states: list[tuple[Path, dict[str, Any]]]) -> tuple[Path, dict[str, Any]] | None:
    """The newest state that every process has; None where no process has any.

    Raises:
        PSAQError: The processes have none in common.
    """
    everyones = all_gather_object([point(state) for _, state in states])
    for path, state in states:
        if all(point(state) in one for one in everyones):
            return path, state
    if any(everyones):
        raise PSAQError("the processes stopped at different points: delete dfq_state*.pth and start anew")
    return None


def restore_state(runner: DFQRunner) -> None:
    """Go on from the saved state, where there is one.

    Raises:
        UsageError: It belongs to another recipe.
        PSAQError: It cannot be read, lacks a part, or the processes have none in common.
    """
    newest = state_path(runner)
    chosen = common_state(readable_states(newest, runner.image_files))
    if chosen is None:
        runner.logger.info("nothing to resume: starting anew")
        return
    path, state = chosen
    if path != newest:
        runner.logger.warning(f"{newest} is missing or cannot be used: going on from the state before it, {path}")
    if state.pop("recipe") != recipe_hash(runner):
        raise UsageError(f"{path} belongs to another recipe: leave out --resume or choose another --work-dir")
    if path != newest:  # else the next save would put what cannot be used in the place of this one
        path = path.replace(newest)
    runner.image_files.retained = image_names(state)
    runner.pool.load_state_dict(state.pop("pool"))
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
