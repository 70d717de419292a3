"""The pool of generated images that the student is calibrated and trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import GenerationError
from ..utils.tensor_bytes import image_bytes


class ImageStore(Protocol):
    """Stores images outside the pool under names, for example on disk."""

    def keep(self, image: Tensor) -> str:
        """Stores an image ``(channels, H, W)``, float32 on the CPU, and returns its name."""

    def open(self, name: str) -> Tensor:
        """Returns the image of a name."""


@dataclass(frozen=True, eq=False)
class _Sample:
    image: Tensor
    tag: str
    key: float
    name: str | None = None


class SamplePool:
    """A bounded pool of images: the newest batch and a uniform sample of all earlier images (ours).

    Every image gets a key, drawn once from U[0, 1). When the pool exceeds its capacity, the images with the largest
    keys are removed, except the newest batch. The remaining earlier images are then a uniform sample without
    replacement from all earlier images, whatever their age (bottom-k sampling). The pool prevents the student from
    forgetting early images, which a queue would remove first.

    The oldest images can be held out (:meth:`hold_out`): they stay in the pool and no training batch contains them.

    Images are kept on the CPU in float32, one tensor each, so that a removed image frees its memory. With a store,
    images are kept there and the state dict contains their names instead.

    Example: with capacity 4 and three batches of two images, the pool holds both images of batch 3 and two random
    images of batches 1 and 2.

    Args:
        capacity: Maximal number of images.
        seed: Seed of the keys.
        store: Where images are kept; None for memory. The pool never deletes an image from the store.

    Raises:
        GenerationError: The capacity is below 1.
    """

    def __init__(self, capacity: int, seed: int = 0, store: ImageStore | None = None) -> None:
        if capacity < 1:
            raise GenerationError(f"capacity {capacity} is too small: give at least 1")
        self.capacity, self._store = capacity, store
        self._samples: list[_Sample] = []  # oldest first, the newest batch last
        self._newest = 0
        self._held = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def images(self) -> Tensor:
        """All images, oldest first, shape ``(len(self), channels, H, W)``, float32; a copy."""
        return self._stack(range(len(self)))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        height, width = self.first(1).shape[-2:]
        return height, width

    def first(self, count: int) -> Tensor:
        """The ``count`` oldest images, or all if there are fewer; a copy."""
        return self._stack(range(min(count, len(self))))

    def latest(self, count: int) -> Tensor:
        """The ``count`` newest images, or all if there are fewer, oldest first; a copy."""
        return self._stack(range(max(0, len(self) - count), len(self)))

    @property
    def held(self) -> Tensor:
        """The images that are held out, at least one; a copy."""
        return self._stack(range(self._held))

    @property
    def newest(self) -> Tensor:
        """The images of the last :meth:`add`; a copy."""
        return self._stack(range(len(self) - self._newest, len(self)))

    @property
    def tags(self) -> list[str]:
        """The tag of every image, in the order of :attr:`images`."""
        return [sample.tag for sample in self._samples]

    @property
    def names(self) -> list[str]:
        """Names of the images in the store, in the order of :attr:`images`; empty without a store."""
        return [sample.name for sample in self._samples if sample.name is not None]

    def hold_out(self, count: int) -> None:
        """Holds the ``count`` oldest images out.

        Raises:
            GenerationError: No image would be left to train on.
        """
        if not 0 <= count < len(self):
            raise GenerationError(f"held_out={count} leaves none of {len(self)} images to train on: use fewer")
        self._held = count
        self._newest = min(self._newest, len(self) - count)

    def add(self, images: Tensor, tag: str = "") -> None:
        """Adds a batch, which becomes the newest one.

        Args:
            images: Shape ``(count, channels, H, W)``, finite.
            tag: Origin of the images, for example ``"cycle-3"``.

        Raises:
            GenerationError: The images exceed the capacity, differ in size from those in the pool, or are not finite.
        """
        if images.dim() != 4 or not 1 <= len(images) <= self.capacity - self._held:
            raise GenerationError(
                f"cannot add {tuple(images.shape)} to a pool of {self.capacity - self._held}: "
                "pass (count, channels, H, W) of at most its capacity"
            )
        if self._samples and images.shape[1:] != self._samples[0].image.shape:
            held = tuple(self._samples[0].image.shape)
            raise GenerationError(f"the pool holds images {held}, not {tuple(images.shape[1:])}: use one pool per size")
        if not bool(images.isfinite().all()):
            raise GenerationError("the images are not finite: stop the generation at its last good state")
        keys = torch.rand(len(images), dtype=torch.float64, generator=self._generator).tolist()
        # Cloned one by one: a view of a single image would keep the whole batch in memory.
        batch = [
            self._sample(image.to("cpu", torch.float32), tag, key)
            for image, key in zip(images.detach(), keys, strict=True)
        ]
        past = self._samples
        leaving = max(0, len(past) + len(batch) - self.capacity)
        gone = sorted(range(self._held, len(past)), key=lambda index: past[index].key, reverse=True)[:leaving]
        kept = set(range(len(past))).difference(gone)
        self._samples = [past[index] for index in sorted(kept)] + batch
        self._newest = len(batch)

    def sample(self, count: int, generator: torch.Generator, newest: float = 0.5) -> Tensor:
        """Draws a training batch.

        Args:
            count: Number of images.
            generator: A CPU generator.
            newest: Share of images from the newest batch, rounded; the others come from earlier batches. If there are
                none, all images come from the newest batch.

        Returns:
            Shape ``(count, channels, H, W)``, on the CPU. Within each of the two parts, no image is drawn a second
            time before all images of the part have been drawn once.

        Raises:
            GenerationError: The pool is empty, or ``count`` or ``newest`` is out of range.
        """
        if not self._samples:
            raise GenerationError("the pool is empty: add samples first")
        if count < 1 or not 0 <= newest <= 1:
            raise GenerationError(
                f"cannot draw {count} images, share {newest}: give at least 1 and a share from 0 to 1"
            )
        start = len(self) - self._newest
        past = start - self._held
        from_newest = round(count * newest) if past else count
        picks = [start + index for index in _deal(from_newest, self._newest, generator)]
        picks += [self._held + index for index in _deal(count - from_newest, past, generator)]
        return self._stack(picks)

    def sha256(self) -> str:
        """SHA-256 of the float32 bytes of all images, in the order of :attr:`images`."""
        digest = hashlib.sha256()
        for sample in self._samples:
            digest.update(image_bytes(sample.image))
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The images, or their names in the store, with tags and keys, and the state of the keys' generator."""
        return {
            "images": self.images if self._samples and self._store is None else None,
            "names": self.names,
            "tags": self.tags,
            "keys": [sample.key for sample in self._samples],
            "newest": self._newest,
            "held": self._held,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replaces the contents by a :meth:`state_dict`.

        Raises:
            GenerationError: The state has more images than the capacity, or names of a store and the pool has no store.
        """
        tags, keys = state["tags"], state["keys"]
        if len(tags) > self.capacity:
            raise GenerationError(f"the state holds {len(tags)} images, the pool {self.capacity}: raise its capacity")
        images = [] if state["images"] is None else list(state["images"])
        if state["names"]:
            if self._store is None:
                raise GenerationError("the state has names of images in a store: give the pool that store")
            images = [self._store.open(name) for name in state["names"]]
        self._samples = [
            self._sample(image.cpu(), tag, key) for image, tag, key in zip(images, tags, keys, strict=True)
        ]
        self._newest, self._held = state["newest"], state.get("held", 0)
        self._generator.set_state(state["generator"].cpu())

    def _sample(self, image: Tensor, tag: str, key: float) -> _Sample:
        if self._store is None:
            return _Sample(image.clone(), tag, key)
        name = self._store.keep(image)
        return _Sample(self._store.open(name), tag, key, name)

    def _stack(self, indices: Iterable[int]) -> Tensor:
        if not self._samples:
            raise GenerationError("the pool is empty: add samples first")
        return torch.stack([self._samples[index].image for index in indices])


def _deal(count: int, population: int, generator: torch.Generator) -> list[int]:
    """``count`` indices below ``population``, from one random permutation after the other."""
    picks: list[int] = []
    while len(picks) < count:
        picks += torch.randperm(population, generator=generator).tolist()
    return picks[:count]
