"""Gradient descent on the pixels of a batch of images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import GenerationError, NonFiniteLossError
from .augment import RollFlip, View
from .initial import Bounds, channel_bounds
from .schedule import SCHEDULES

LossFunction = Callable[[Tensor], dict[str, Tensor]]


class SampleOptimiser:
    """Adam on images, inside the range of valid pixels.

    One step: draw a view of the images (shift, flip), ask ``loss_fn`` for its loss terms, add them up, step down the
    gradient and clamp every channel to its range. Adam with betas (0.5, 0.9) and lr 0.2 (DeiT; 0.25 for Swin), cosine
    after a warm-up, and the clamp are V1's published code; micro-batches and per-term gradients are ours.

    With ``micro_batch`` the images pass through ``loss_fn`` in chunks, each weighted by its share of the batch: terms
    that are means over images, as all of this package but ``v1``'s entropy, give the step of the whole batch while
    only one chunk's activations are held.

    Args:
        images: Where to start, shape ``(batch, channels, H, W)``; copied to float32 and clamped.
        lower: Smallest valid value per channel, in normalised units.
        upper: Largest valid value per channel.
        steps: Length of the schedule; no step can be taken beyond it.
        lr: Peak learning rate.
        betas: Adam's.
        warmup: Steps of linear warm-up, at most ``steps``.
        schedule: ``"cosine"`` or ``"constant"``, after the warm-up.
        generator: Source of the views; the default is a new one of seed 0. Saved and restored with the state.
        augment: Draws the views, ``None`` for the images as they are.
        micro_batch: Images per chunk, ``None`` for all at once.
        log_gradients: Report the norm of every term's gradient on the images.
        gradient_every: ... at step 0 and every so many steps, for it takes one backward pass a term.

    Attributes:
        images: The images as they stand.
        part: Which of them ``loss_fn`` is being asked about, for terms that know single images.
        lr: The peak learning rate, which may be changed between steps.
        micro_batch: Images per chunk, likewise.

    Raises:
        GenerationError: A value lies outside its range.
    """

    def __init__(
        self,
        images: Tensor,
        lower: Bounds,
        upper: Bounds,
        steps: int,
        lr: float = 0.2,
        betas: tuple[float, float] = (0.5, 0.9),
        warmup: int = 0,
        schedule: str = "cosine",
        generator: torch.Generator | None = None,
        augment: RollFlip | None = None,
        micro_batch: int | None = None,
        log_gradients: bool = False,
        gradient_every: int = 10,
    ) -> None:
        if images.dim() != 4 or not len(images):
            raise GenerationError(f"images of shape {tuple(images.shape)}: hand (batch, channels, H, W), at least one")
        if schedule not in SCHEDULES:
            raise GenerationError(f"schedule {schedule!r} is unknown: choose one of {', '.join(SCHEDULES)}")
        if not 0 <= warmup <= steps or steps < 1:
            raise GenerationError(
                f"{warmup} warm-up steps of {steps}: give at least 1 step and no more warm-up than that"
            )
        if not lr > 0:
            raise GenerationError(f"learning rate {lr} must be positive")
        if (micro_batch is not None and micro_batch < 1) or gradient_every < 1:
            raise GenerationError("micro_batch and gradient_every must be at least 1")
        self._lower, self._upper = channel_bounds(lower, upper, images.device)
        if len(self._lower) != images.shape[1]:
            raise GenerationError(f"{len(self._lower)} bounds for {images.shape[1]} channels: give one pair a channel")
        self.images = images.detach().float().clamp(self._lower, self._upper)
        self.step_count, self.steps, self.warmup, self.lr = 0, steps, warmup, lr
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self.augment, self.micro_batch = augment, micro_batch
        self.log_gradients, self.gradient_every = log_gradients, gradient_every
        self.part = slice(None)
        self._scale = SCHEDULES[schedule]
        self._adam = torch.optim.Adam([self.images], lr=lr, betas=betas)

    @property
    def lr_scale(self) -> float:
        """The schedule's factor on the learning rate at the coming step."""
        return self._scale(self.step_count, self.steps, self.warmup)

    def step(self, loss_fn: LossFunction) -> dict[str, float]:
        """Moves the images once.

        Args:
            loss_fn: Takes a view of (a chunk of) the images, same shape, and returns the weighted loss terms by name,
                scalars, means over the images.

        Returns:
            ``loss`` (the sum), ``lr``, ``loss/<term>`` for each term and, at the steps that log them,
            ``gradient/<term>``: the L2 norm of the term's gradient on the whole batch.

        Raises:
            NonFiniteLossError: A term or the gradient is NaN or infinite; images and step are as before the call.
            GenerationError: All steps are taken, or no term depends on the images.
        """
        if self.step_count >= self.steps:
            raise GenerationError(f"all {self.steps} steps are taken: make a new SampleOptimiser to go on")
        view = self.augment.draw(self.generator) if self.augment is not None else None
        by_term = self.log_gradients and self.step_count % self.gradient_every == 0
        gradient = torch.empty_like(self.images)
        values: dict[str, float] = {}
        squares: dict[str, float] = {}
        size = self.micro_batch or len(self.images)
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            self.part = part
            terms, gradients = self._differentiate(self.images[part], view, loss_fn, by_term)
            share = len(self.images[part]) / len(self.images)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + share * value
            for name, one in gradients.items():
                squares[name] = squares.get(name, 0.0) + float((share * one).square().sum())
            gradient[part] = share * sum(gradients.values())
        self._require_finite(squares)
        scale = self.lr_scale
        self._apply(gradient, scale)
        record = {"loss": sum(values.values()), "lr": self.lr * scale}
        record |= {f"loss/{name}": value for name, value in values.items()}
        if by_term:
            record |= {f"gradient/{name}": squares.get(name, 0.0) ** 0.5 for name in values}
        return record

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming steps depend on beside the constructor's arguments: a copy, safe to keep."""
        return {
            "images": self.images.clone(),
            "adam": copy.deepcopy(self._adam.state_dict()),
            "lr": self.lr,
            "micro_batch": self.micro_batch,
            "step": self.step_count,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken; on the same machine the steps are then identical to the bit.

        Raises:
            GenerationError: The state is of images of another shape.
        """
        if state["images"].shape != self.images.shape:
            raise GenerationError(
                f"the state holds images {tuple(state['images'].shape)}, this optimiser {tuple(self.images.shape)}: "
                "resume with the batch and size of the interrupted run"
            )
        self.images.copy_(state["images"])
        self._adam.load_state_dict(copy.deepcopy(state["adam"]))
        self.lr, self.micro_batch = state["lr"], state["micro_batch"]
        self.step_count = state["step"]
        self.generator.set_state(state["generator"].cpu())

    @torch.enable_grad()
    def _differentiate(
        self, images: Tensor, view: View | None, loss_fn: LossFunction, by_term: bool
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The terms' values on a chunk and its gradients, one for each term or one for their sum."""
        pixels = images.detach().requires_grad_()
        terms = loss_fn(pixels if view is None else view(pixels))
        values = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
        self._require_finite(values)
        live = {name: term for name, term in terms.items() if term.requires_grad}
        outputs = live if by_term or not live else {"gradient": torch.stack(list(live.values())).sum()}
        gradients = {}
        for position, (name, output) in enumerate(outputs.items(), start=1):
            # Not backward(): that would leave gradients on the networks' own parameters.
            more = position < len(outputs)
            gradient = torch.autograd.grad(output, pixels, retain_graph=more, allow_unused=True)[0]
            if gradient is not None:
                gradients[name] = gradient
        if not gradients:
            raise GenerationError("no loss term depends on the images: check that the networks run with gradients on")
        return values, gradients

    def _require_finite(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not abs(value) < float("inf"):
                raise NonFiniteLossError(name, self.step_count)

    def _apply(self, gradient: Tensor, scale: float) -> None:
        self._adam.param_groups[0]["lr"] = self.lr * scale
        self.images.grad = gradient
        self._adam.step()
        self.images.grad = None
        self.images.clamp_(self._lower, self._upper)
        self.step_count += 1
