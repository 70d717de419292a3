"""The generator step: images that minimise ``L_PSE + a L_TV - b D(teacher, student)`` (PSAQ-ViT V2, equation for G)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import NonFiniteLossError, PSAQError
from ..generation import (
    AttentionTokens,
    Discrepancy,
    ImageOptimizer,
    ImagePrior,
    PatchSimilarityEntropy,
    RollFlip,
    rms_differences,
)
from .networks import Outputs, Teacher
from .recovery import Backoff, MicroBatch
from .state import BatchState

T = TypeVar("T")


@dataclass(frozen=True)
class Competition:
    """The student whose discrepancy D from the teacher the images increase.

    Attributes:
        student: The quantized network, frozen.
        outputs: The outputs that teacher and student are compared on.
        discrepancy: The discrepancy D.
        share: Ratio of gradient norms that sets b: on the initial images of a batch,
            ``|grad b D| = share |grad L_PSE|``; 0 for b = 0. A constant b would not suit all bit widths, since D is a
            hundred times larger at 4 bits than at 8.
    """

    student: nn.Module
    outputs: Outputs
    discrepancy: Discrepancy
    share: float = 1.0


class ImageGenerator:
    """Optimizes batches of images against the teacher and, with a competition, against the student.

    Args:
        teacher: The full-precision network.
        generator: Random numbers of the views (shift, flip) that each step draws.
        seed: Seed of the smoothness target, separate from ``generator``, so that a resumed run draws the same target.
        warn: Called with a message for each skipped step and each smaller micro-batch.
        lr: Adam's learning rate on the images.
        warmup: Steps of linear warm-up; cosine decay follows.
        entropy: The keys of :class:`psaq_mm.generation.PatchSimilarityEntropy`.
        entropy_weight: The weight of L_PSE.
        prior: The keys of :class:`psaq_mm.generation.ImagePrior`.
        keep_smoothness: Whether the smoothness target of each image is the mean neighbour difference of its initial
            image, instead of one target drawn for all images.
        augment: The keys of :class:`psaq_mm.generation.RollFlip`.
        amp: Whether the teacher computes in bfloat16 (autocast) in steps without a student; the entropy stays float32.
            Steps with a student always use float32, because bfloat16 errors would be part of the discrepancy.
        micro_batch: Images per forward pass; None for the whole batch.
        gradient_every: Steps between two measurements of the gradient norm of each term.
        save_interval: Steps between two saved states.

    Attributes:
        last: Terms and gradient norms of the last step, by name.
    """

    def __init__(
        self,
        teacher: Teacher,
        generator: torch.Generator,
        seed: int,
        warn: Callable[[str], None],
        lr: float = 0.2,
        warmup: int = 10,
        entropy: dict[str, Any] | None = None,
        entropy_weight: float = 1.0,
        prior: dict[str, Any] | None = None,
        keep_smoothness: bool = False,
        augment: dict[str, Any] | None = None,
        amp: bool = False,
        micro_batch: int | None = None,
        gradient_every: int = 10,
        save_interval: int = 50,
    ) -> None:
        self.teacher, self.generator, self.warn, self.amp = teacher, generator, warn, amp
        self.lr, self.warmup, self.entropy_weight = lr, warmup, entropy_weight
        self.entropy = PatchSimilarityEntropy(**(entropy or {}))
        self.prior = ImagePrior(**(prior or {}))
        self.prior.draw(torch.Generator().manual_seed(seed))
        self.keep_smoothness = keep_smoothness
        self.augment = RollFlip(**(augment or {}))
        self.micro_batch = MicroBatch(warn, micro_batch)
        self.gradient_every, self.save_interval = gradient_every, save_interval
        self.taps = teacher.taps()
        self.last: dict[str, float] = {}
        self.goals: Tensor | None = None
        self.balance = 0.0

    def optimize(
        self,
        images: Tensor,
        steps: int,
        after_step: Callable[[ImageOptimizer], None],
        competition: Competition | None = None,
        resume: BatchState | None = None,
    ) -> Tensor:
        """Optimize a batch.

        Args:
            images: Initial images, ``(batch, channels, H, W)``, as network inputs.
            steps: Number of Adam steps.
            after_step: Called with the optimizer after each step.
            competition: The student and its discrepancy; None for L_PSE and the prior alone.
            resume: A state of :meth:`state` to continue from; then only the shape of ``images`` is used.

        Returns:
            The optimized images, as network inputs, detached.

        Raises:
            NonFiniteLossError: Several steps in a row were not finite.
            PSAQError: Memory runs out with a single image, or the model's outputs carry no gradient.
        """
        teacher, units, device = self.teacher, self.teacher.units, self.teacher.device
        optimizer = ImageOptimizer(
            units.from_network(images.to(device)),
            units.lower.to(device),
            units.upper.to(device),
            lr=self.lr,
            steps=steps,
            warmup=min(self.warmup, steps // 2),
            augment=self.augment,
            generator=self.generator,
            micro_batch=self.micro_batch.size,
            gradient_every=self.gradient_every,
        )
        self.goals = rms_differences(optimizer.images).mean(1) if self.keep_smoothness else None
        self.balance = 0.0
        if resume is not None:
            optimizer.load_state_dict(resume.optimizer)
            self.goals, self.balance = resume.goals, resume.balance
            self.goals = None if self.goals is None else self.goals.to(device)
            # The micro-batch found before the interruption: sums over other chunks differ in the last bits.
            self.micro_batch.size = optimizer.micro_batch
        with self.taps as taps:

            def loss(view: Tensor, b: float) -> dict[str, Tensor]:
                rival = competition if b else None
                outputs = rival.outputs if rival else teacher.outputs
                seen = units.to_network(view)
                with torch.autocast(view.device.type, torch.bfloat16, enabled=self.amp and not rival):
                    reference = outputs(teacher.model, seen)
                goal = None if self.goals is None else self.goals[optimizer.part]
                entropy = self.entropy_of(taps.take(), optimizer.step_count)
                terms = {"entropy": self.entropy_weight * entropy, "prior": self.prior(view, goal)}
                if rival:
                    found = outputs(rival.student, seen)
                    if not any(one.requires_grad for one in found):
                        raise PSAQError(without_gradient("the student's outputs"))
                    terms["competition"] = -b * rival.discrepancy(reference, found)
                return terms

            if competition and competition.share and resume is None:
                share = competition.share
                self.balance = self.with_memory(optimizer, lambda: self.balanced(loss, optimizer, share))
            backoff = Backoff(self.warn)
            while optimizer.step_count < steps:
                try:
                    self.last |= self.with_memory(
                        optimizer, lambda: optimizer.step(lambda view: loss(view, self.balance))
                    )
                except NonFiniteLossError as error:
                    taps.take()
                    backoff.failed(error)
                    optimizer.lr /= 2
                    continue
                backoff.passed()
                after_step(optimizer)
        return units.to_network(optimizer.images.detach())

    def state(self, optimizer: ImageOptimizer) -> BatchState:
        """The state from which :meth:`optimize` resumes a batch."""
        return BatchState(optimizer.state_dict(), self.goals, self.balance)

    def entropy_of(self, layers: list[AttentionTokens], step: int) -> Tensor:
        """The patch similarity entropy L_PSE.

        Args:
            layers: Patch tokens of each attention layer.
            step: Number of the step, for the error message.

        Raises:
            PSAQError: The tokens of a layer have no gradient with respect to the images.
            NonFiniteLossError: The entropy is not finite; the message names the first such layer.
        """
        cut = [one.layer for one in layers if not one.tokens.requires_grad]
        if cut and torch.is_grad_enabled():
            raise PSAQError(without_gradient(f"the tokens of {len(cut)} attention layers, first {cut[0]}"))
        value: Tensor = self.entropy(layers)
        if not torch.isfinite(value):
            usable = self.entropy.usable(layers)
            wrong = [one.layer for one in usable if not torch.isfinite(self.entropy.per_layer([one])).all()]
            raise NonFiniteLossError(f"entropy of layer {wrong[0]}" if wrong else "entropy", step)
        return value

    def with_memory(self, optimizer: ImageOptimizer, call: Callable[[], T]) -> T:
        """Make a call that runs the networks; when memory runs out, repeat it with a smaller micro-batch.

        Raises:
            PSAQError: Memory runs out with a single image.
        """
        drawn = self.generator.get_state()

        def attempt(size: int) -> T:
            optimizer.micro_batch = size
            return call()

        def undo() -> None:
            self.generator.set_state(drawn)
            self.taps.take()

        return self.micro_batch.run(len(optimizer.images), attempt, undo)

    def balanced(self, loss: Callable[..., dict[str, Tensor]], optimizer: ImageOptimizer, share: float) -> float:
        """The factor b with ``|grad b D| = share |grad L_PSE|`` on the first micro-batch."""
        optimizer.part = slice(optimizer.micro_batch)
        view = optimizer.images[optimizer.part].detach().requires_grad_(True)
        terms = loss(view, 1.0)
        of_entropy = torch.autograd.grad(terms["entropy"], view, retain_graph=True)[0].norm()
        of_discrepancy = torch.autograd.grad(terms["competition"], view)[0].norm()
        return share * float(of_entropy / of_discrepancy.clamp(min=1e-12))


def without_gradient(what: str) -> str:
    """The error message for tensors without a gradient with respect to the images."""
    return (
        f"{what}, carry no gradient to the images: the model computes them under torch.no_grad, detached or with "
        "re-entrant checkpointing; switch that off in its config"
    )
