"""The state of a run: the data that its stages share and from which a stopped run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from torch import nn

from ..distillation import DistillState, GenerateState, Teacher
from ..distillation.state import as_dict, from_dict
from ..errors import PSAQError, UsageError
from ..generation import SamplePool
from ..quantization import State, quantizers
from ..utils.atomic_files import replacing, write_tensors
from ..utils.image_store import DiskImageStore


@dataclass
class RunState:
    """The data that the stages of a run share.

    Attributes:
        folder: The work dir.
        recipe: Hash of the settings (:func:`recipe_hash`), which a resumed run must have too.
        seed: Seed of the run.
        teacher: The full-precision network.
        generator: Random number generator of this process, on the CPU.
        images: Image store of this process.
        pool: The samples.
        done: Names of the finished stages, in order.
        generate: Progress of the stage ``generate``.
        distill: Progress of the stage ``distill``.
        seconds: Wall seconds by stage.
    """

    folder: Path
    recipe: str
    seed: int
    teacher: Teacher
    generator: torch.Generator
    images: DiskImageStore
    pool: SamplePool
    done: list[str] = field(default_factory=list)
    generate: GenerateState = field(default_factory=GenerateState)
    distill: DistillState = field(default_factory=DistillState)
    seconds: dict[str, float] = field(default_factory=dict)
    _student: nn.Module | None = field(default=None, init=False, repr=False)

    @property
    def student(self) -> nn.Module:
        """The quantized network.

        Raises:
            PSAQError: It has not been built yet.
        """
        if self._student is None:
            raise PSAQError("the quantized model is not built yet: call the runner's prepare() first")
        return self._student

    @student.setter
    def student(self, student: nn.Module) -> None:
        self._student = student

    @property
    def path(self) -> Path:
        """The file of this process's state."""
        return self.folder / f"dfq_state{get_rank() or ''}.pth"

    def save(self) -> None:
        """Write the state atomically, and keep the one before as a backup; images have files of their own."""
        saved = {
            "recipe": self.recipe,
            "done": list(self.done),
            "generate": as_dict(self.generate),
            "distill": as_dict(self.distill),
            "pool": self.pool.state_dict(),
            "rng": self.generator.get_state(),
            "seconds": dict(self.seconds),
            "student": self.student.state_dict(),
        }
        with replacing(self.path) as scratch:
            write_tensors(saved, scratch)
            if self.path.exists():
                os.replace(self.path, previous_path(self.path))
        self.images.retain(image_names(saved))

    def restore(self, logger: logging.Logger) -> None:
        """Load the saved state if there is one.

        Args:
            logger: Receives a line on the state that was loaded.

        Raises:
            UsageError: The state belongs to another recipe.
            PSAQError: The state cannot be read or is incomplete, or the processes have no common state.
        """
        chosen = common_state(readable_states(self.path, self.images))
        if chosen is None:
            logger.info("nothing to resume: starting anew")
            return
        path, saved = chosen
        if path != self.path:
            logger.warning(f"{self.path} is missing or cannot be used: going on from the state before it, {path}")
        if saved["recipe"] != self.recipe:
            raise UsageError(f"{path} belongs to another recipe: leave out --resume or choose another --work-dir")
        if path != self.path:  # otherwise the next save would overwrite the good state with the unreadable one
            path = path.replace(self.path)
        self.images.retained = image_names(saved)
        self.pool.load_state_dict(saved["pool"])
        self.generator.set_state(saved["rng"])
        self.seconds.update(saved["seconds"])
        self.student.load_state_dict(saved["student"])
        self.done = saved["done"]
        self.generate = from_dict(GenerateState, saved["generate"])
        self.distill = from_dict(DistillState, saved["distill"])
        if "calibrate" in self.done:
            uncalibrated = [name for name, one in quantizers(self.student) if one.state is State.UNCALIBRATED]
            if uncalibrated:
                raise PSAQError(f"{path} is incomplete: delete it and start anew")
        logger.info(f"resumed: done are {', '.join(self.done) or 'no stages'}")
        barrier()


def previous_path(path: Path) -> Path:
    """The file of the second last state, for the case that the last one cannot be read."""
    return path.with_suffix(".previous.pth")


def readable_states(path: Path, images: DiskImageStore) -> list[tuple[Path, dict[str, Any]]]:
    """Those of the last two states that can be read and whose images exist, newest first.

    Args:
        path: The file of the last state.
        images: Image store of this process.

    Raises:
        PSAQError: State files exist, but none can be read.
    """
    found, paths = [], [one for one in (path, previous_path(path)) if one.exists()]
    for one in paths:
        try:
            saved = torch.load(one, map_location="cpu", weights_only=True)
            images.check(image_names(saved))
            point(saved)
            found.append((one, saved))
        except Exception:  # a damaged file can raise any exception
            continue
    if paths and not found:
        raise PSAQError(f"{path} cannot be read: delete it and start anew")
    return found


def image_names(saved: dict[str, Any]) -> set[str]:
    """The images that a saved state refers to: those of the pool, and finished ones of an unfinished generation."""
    return {*saved["pool"]["names"], *(name for batch in saved["generate"]["done"] for name in batch)}


def point(saved: dict[str, Any]) -> tuple[Any, ...]:
    """Recipe and progress of a saved state, which must be equal in all processes of a resumed run."""
    return saved["recipe"], *saved["done"], saved["distill"]["cycle"]


def common_state(states: list[tuple[Path, dict[str, Any]]]) -> tuple[Path, dict[str, Any]] | None:
    """The newest state that all processes have; None if no process has a state.

    Raises:
        PSAQError: The processes have no common state.
    """
    everyones = all_gather_object([point(saved) for _, saved in states])
    for path, saved in states:
        if all(point(saved) in one for one in everyones):
            return path, saved
    if any(everyones):
        raise PSAQError("the processes stopped at different points: delete dfq_state*.pth and start anew")
    return None


def recipe_hash(model: dict[str, Any], recipe: dict[str, Any], seed: int | None) -> str:
    """SHA-256 of the settings that must be equal for a run to be resumed; the report's pictures are not among them."""
    settings = {key: value for key, value in recipe.items() if key not in ("pictures", "report")}
    parts: dict[str, Any] = {"model": model, "dfq": settings, "seed": seed}
    if get_world_size() > 1:  # the processes share the work by their number
        parts["processes"] = get_world_size()
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
