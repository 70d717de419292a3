"""What has been generated so far, for the student to learn from."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import GenerationError


class ImageStore(Protocol):
    """Keeps images elsewhere, on disk for instance, under names."""

    def keep(self, image: Tensor) -> str:
        """Take an image, ``(channels, H, W)``, float32 on the CPU, and give its name."""

    def open(self, name: str) -> Tensor:
        """The image of a name."""


@dataclass(frozen=True, eq=False)
class _Sample:
    image: Tensor
    tag: str
    key: float
    name: str | None = None


class SamplePool:
    """A bounded memory of samples: the newest batch and a uniform choice of all before it (ours).

    Why a reservoir and no queue: the pool is there so that the student does not forget, and a queue forgets first what
    is oldest. Every sample draws a key once, uniform in [0, 1); when the pool overflows, the samples with the largest
    keys leave, newest batch excepted. Whatever has been added, the rest is then a uniform draw without replacement
    from all earlier samples, of any age (bottom-k sampling).

    Images are kept on the CPU in float32, one tensor each, so that leaving frees memory at once; or by a store, whose
    names then stand in the state instead of the images.

    Args:
        capacity: Most images to hold.
        seed: Of the keys.
        store: Where images are kept; None for memory. What left the pool stays there until somebody deletes it.

    Raises:
        GenerationError: The capacity is below 1.
    """

    def __init__(self, capacity: int, seed: int = 0, store: ImageStore | None = None) -> None:
        if capacity < 1:
            raise GenerationError(f"capacity {capacity} holds nothing: give at least 1")
        self.capacity, self._store = capacity, store
        self._samples: list[_Sample] = []  # oldest first, the newest batch last
        self._newest = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def images(self) -> Tensor:
        """All images, oldest first, shape ``(len(self), channels, H, W)``, float32; a copy."""
        return self._stack(range(len(self)))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images."""
        height, width = self.first(1).shape[-2:]
        return height, width

    def first(self, count: int) -> Tensor:
        """The oldest images, as many as there are up to ``count``; a copy."""
        return self._stack(range(min(count, len(self))))

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
        """What the store calls the images, in the order of :attr:`images`; empty without a store."""
        return [sample.name for sample in self._samples if sample.name is not None]

    def add(self, images: Tensor, tag: str = "") -> None:
        """Takes in a batch, which becomes the newest one.

        Args:
            images: Shape ``(count, channels, H, W)``, finite.
            tag: Where they come from, for instance ``"cycle-3"``.

        Raises:
            GenerationError: They do not fit the capacity or the images held, or are not finite.
        """
        if images.dim() != 4 or not 1 <= len(images) <= self.capacity:
            raise GenerationError(
                f"cannot add {tuple(images.shape)} to a pool of {self.capacity}: "
                "hand (count, channels, H, W) of at most its capacity"
            )
        if self._samples and images.shape[1:] != self._samples[0].image.shape:
            held = tuple(self._samples[0].image.shape)
            raise GenerationError(f"the pool holds images {held}, not {tuple(images.shape[1:])}: use one pool a size")
        if not bool(images.isfinite().all()):
            raise GenerationError("the images are not finite: stop the generation at its last good state")
        keys = torch.rand(len(images), dtype=torch.float64, generator=self._generator).tolist()
        # Cloned one by one: views would keep the whole batch in memory as long as one image of it is held.
        batch = [
            self._sample(image.to("cpu", torch.float32), tag, key)
            for image, key in zip(images.detach(), keys, strict=True)
        ]
        past = self._samples
        leaving = max(0, len(past) + len(batch) - self.capacity)
        gone = sorted(range(len(past)), key=lambda index: past[index].key, reverse=True)[:leaving]
        kept = set(range(len(past))).difference(gone)
        self._samples = [past[index] for index in sorted(kept)] + batch
        self._newest = len(batch)

    def sample(self, count: int, generator: torch.Generator, newest: float = 0.5) -> Tensor:
        """Draws a training batch.

        Args:
            count: Number of images.
            generator: A CPU generator.
            newest: Share drawn from the newest batch, rounded; the rest comes from before it. While there is nothing
                before it, everything does.

        Returns:
            Shape ``(count, channels, H, W)``, on the CPU. No image comes twice from either part before all of that
            part have come once.

        Raises:
            GenerationError: The pool is empty, or ``count`` or ``newest`` is out of range.
        """
        if not self._samples:
            raise GenerationError("the pool is empty: add samples first")
        if count < 1 or not 0 <= newest <= 1:
            raise GenerationError(
                f"cannot draw {count} images, share {newest}: give at least 1 and a share from 0 to 1"
            )
        past = len(self) - self._newest
        from_newest = round(count * newest) if past else count
        picks = [past + index for index in _deal(from_newest, self._newest, generator)]
        return self._stack(picks + _deal(count - from_newest, past, generator))

    def sha256(self) -> str:
        """Hash of the float32 bytes of all images in order, as they lie in memory; equal for equal samples."""
        digest = hashlib.sha256()
        for sample in self._samples:
            digest.update(image_bytes(sample.image))
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The samples, or their names where a store keeps them, and the state of the keys' generator."""
        return {
            "images": self.images if self._samples and self._store is None else None,
            "names": self.names,
            "tags": self.tags,
            "keys": [sample.key for sample in self._samples],
            "newest": self._newest,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replaces the contents by those of a :meth:`state_dict`.

        Raises:
            GenerationError: The state holds more images than the capacity, or names them and there is no store.
        """
        tags, keys = state["tags"], state["keys"]
        if len(tags) > self.capacity:
            raise GenerationError(f"the state holds {len(tags)} images, the pool {self.capacity}: raise its capacity")
        images = [] if state["images"] is None else list(state["images"])
        if state["names"]:
            if self._store is None:
                raise GenerationError("the state names images that a store keeps: give the pool that store")
            images = [self._store.open(name) for name in state["names"]]
        self._samples = [
            self._sample(image.cpu(), tag, key) for image, tag, key in zip(images, tags, keys, strict=True)
        ]
        self._newest = state["newest"]
        self._generator.set_state(state["generator"].cpu())

    def _sample(self, image: Tensor, tag: str, key: float) -> _Sample:
        if self._store is None:
            return _Sample(image.clone(), tag, key)
        name = self._store.keep(image)
        return _Sample(self._store.open(name), tag, key, name)

    def _stack(self, indices: Any) -> Tensor:
        if not self._samples:
            raise GenerationError("the pool is empty: add samples first")
        return torch.stack([self._samples[index].image for index in indices])


def image_bytes(image: Tensor) -> bytes:
    """An image's values as they lie in memory, row after row."""
    flat = image.contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes)


def _deal(count: int, population: int, generator: torch.Generator) -> list[int]:
    """``count`` indices below ``population``: shuffled decks, one after the other."""
    picks: list[int] = []
    while len(picks) < count:
        picks += torch.randperm(population, generator=generator).tolist()
    return picks[:count]
