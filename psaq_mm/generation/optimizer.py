"""Optimisation of the pixels of a batch of images by Adam."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import GenerationError, NonFiniteLossError
from .augment import RollFlip, View
from .bounds import Bounds, channel_bounds
from .schedule import cosine_with_warmup

LossFunction = Callable[[Tensor], dict[str, Tensor]]


class ImageOptimizer:
    """Adam on the pixels of a batch of images, within the range of valid pixels.

    One step draws a view of the images (shift, flip), calls ``loss_fn`` for the loss terms, sums them, makes one Adam
    step on the gradient and clamps every channel to its range. Adam with betas (0.5, 0.9) and learning rate 0.2 (DeiT;
    0.25 for Swin), the cosine schedule after a warm-up, and the clamp are those of V1's published code; micro-batches
    and gradient norms per term are ours.

    With ``micro_batch`` the images pass through ``loss_fn`` in chunks, each weighted by its share of the batch, so that
    only one chunk's activations are held. The step equals that of the whole batch for terms that are means over
    images: all of this package except the entropy variant ``v1``.

    Args:
        images: Initial images, shape ``(batch, channels, H, W)``; copied to float32 and clamped.
        lower: Smallest valid value per channel, in normalised units.
        upper: Largest valid value per channel.
        steps: Length of the schedule, and the maximal number of steps.
        lr: Peak learning rate.
        betas: Adam's coefficients.
        warmup: Steps of linear warm-up, at most ``steps``; see :func:`psaq_mm.generation.cosine_with_warmup`.
        generator: Source of randomness of the views, by default a new one of seed 0. Part of the state.
        augment: Draws the views; ``None`` uses the images as they are.
        micro_batch: Images per chunk; ``None`` for the whole batch.
        gradient_every: Interval in steps, from step 0, at which the gradient norm of every term is measured. Such a
            step takes one backward pass per term.

    Attributes:
        images: The current images.
        part: The slice of the images in the current call of ``loss_fn``, for terms with a separate setting per image.
        lr: Peak learning rate; may be changed between steps.
        micro_batch: Images per chunk; may be changed between steps.
        step_count: Number of steps taken.

    Raises:
        GenerationError: An argument is outside its range.
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
        generator: torch.Generator | None = None,
        augment: RollFlip | None = None,
        micro_batch: int | None = None,
        gradient_every: int = 10,
    ) -> None:
        if images.dim() != 4 or not len(images):
            raise GenerationError(f"images of shape {tuple(images.shape)}: pass (batch, channels, H, W), at least one")
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
            raise GenerationError(
                f"{len(self._lower)} bounds for {images.shape[1]} channels: give one pair per channel"
            )
        self.images = images.detach().float().clamp(self._lower, self._upper)
        self.step_count, self.steps, self.warmup, self.lr = 0, steps, warmup, lr
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self.augment, self.micro_batch, self.gradient_every = augment, micro_batch, gradient_every
        self.part = slice(None)
        self._adam = torch.optim.Adam([self.images], lr=lr, betas=betas)

    @property
    def lr_scale(self) -> float:
        """The schedule's factor on the learning rate in the next step, in [0, 1]."""
        return cosine_with_warmup(self.step_count, self.steps, self.warmup)

    def step(self, loss_fn: LossFunction) -> dict[str, float]:
        """Makes one step.

        Args:
            loss_fn: Takes a view of the images, or of a chunk of them, of shape ``(count, channels, H, W)`` and
                returns the weighted loss terms by name: scalars, means over these images.

        Returns:
            ``loss`` (the sum), ``lr``, ``loss/<term>`` for each term and, every ``gradient_every`` steps,
            ``gradient/<term>``: the L2 norm of the term's gradient on the whole batch.

        Raises:
            NonFiniteLossError: A term or the gradient is NaN or infinite; images and step count are unchanged.
            GenerationError: All steps have been taken, or no term depends on the images.
        """
        if self.step_count >= self.steps:
            raise GenerationError(f"all {self.steps} steps are taken: make a new ImageOptimizer to go on")
        view = self.augment.draw(self.generator) if self.augment is not None else None
        by_term = self.step_count % self.gradient_every == 0
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
        """A copy of everything that later steps depend on, except the constructor's arguments."""
        return {
            "images": self.images.clone(),
            "adam": copy.deepcopy(self._adam.state_dict()),
            "lr": self.lr,
            "micro_batch": self.micro_batch,
            "step": self.step_count,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a :meth:`state_dict`; on the same machine the steps are then equal bit by bit.

        Raises:
            GenerationError: The state holds images of another shape.
        """
        if state["images"].shape != self.images.shape:
            raise GenerationError(
                f"the state holds images {tuple(state['images'].shape)}, this optimizer {tuple(self.images.shape)}: "
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
        """The values of the terms on a chunk, and their gradients: one per term or one of their sum."""
        pixels = images.detach().requires_grad_()
        terms = loss_fn(pixels if view is None else view(pixels))
        values = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
        self._require_finite(values)
        live = {name: term for name, term in terms.items() if term.requires_grad}
        outputs = live if by_term or not live else {"gradient": torch.stack(list(live.values())).sum()}
        gradients = {}
        for position, (name, output) in enumerate(outputs.items(), start=1):
            # Not backward(), which would also add gradients to the networks' parameters.
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
