"""The generator step: images that minimise ``L_PSE + a L_TV - b D(teacher, student)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..generation import (
    AttentionTokens,
    FeatureDistance,
    ImagePrior,
    NonFiniteLossError,
    PatchSimilarityEntropy,
    RollFlip,
    SampleOptimiser,
    rms_differences,
)
from ..models import AttentionTaps, OutputFunction, backbone_of, backbone_outputs
from .guards import Backoff, MicroBatch
from .loops.base import pixel_bounds

if TYPE_CHECKING:
    from .runner import DFQRunner

T = TypeVar("T")


class ImageGenerator:
    """Optimises batches of images against the teacher, and against the student where there is a competition.

    Args:
        runner: The runner.
        lr: Adam's rate on the images.
        warmup: Steps of linear warm-up; cosine decay follows.
        entropy: The keys of :class:`psaq_mm.generation.PatchSimilarityEntropy`.
        entropy_weight: The weight of L_PSE.
        prior: The keys of :class:`psaq_mm.generation.ImagePrior`.
        keep_smoothness: Whether every image's target is the neighbour difference that it starts with, rather than
            one drawn for all: flat images stay flat, busy ones busy.
        augment: The keys of :class:`psaq_mm.generation.RollFlip`.
        amp: Whether the teacher computes in bfloat16 (autocast) in steps without a student; the entropy stays float32.
            Against a student it never does: its own rounding would be the distance.
        micro_batch: Images per forward pass; None takes the batch whole.
        gradient_every: How often each term's gradient norm is measured, in steps.
        save_interval: How often the state is saved, in steps.
    """

    def __init__(
        self,
        runner: DFQRunner,
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
        self.runner, self.amp = runner, amp
        self.lr, self.warmup, self.entropy_weight = lr, warmup, entropy_weight
        self.entropy = PatchSimilarityEntropy(**(entropy or {}))
        self.prior = ImagePrior(**(prior or {}))
        # From the seed alone, so that a resumed run draws the same target.
        self.prior.draw(torch.Generator().manual_seed(runner.seed or 0))
        self.keep_smoothness = keep_smoothness
        self.augment = RollFlip(**(augment or {}))
        self.micro_batch = MicroBatch(runner.logger.warning, micro_batch)
        self.gradient_every, self.save_interval = gradient_every, save_interval
        self.taps = AttentionTaps(backbone_of(runner.teacher)[1])
        self.last: dict[str, float] = {}
        self.goals: Tensor | None = None
        self.balance = 0.0

    def optimise(
        self,
        images: Tensor,
        steps: int,
        competition: float,
        after_step: Callable[[SampleOptimiser], None],
        outputs: OutputFunction | None = None,
        distance: FeatureDistance | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Tensor:
        """Optimise a batch.

        Args:
            images: ``(B, 3, H, W)`` to start from.
            steps: How many Adam steps.
            competition: How hard the images seek out the discrepancy D; 0 for none. Relative: b is set so that b D's
                gradient has, on the images that the batch starts from, this share of L_PSE's. D itself is a hundred
                times larger at 4 bits than at 8, so a constant b would be no competition here and chaos there.
            after_step: Called with the optimiser after each step.
            outputs: What teacher and student are compared on; needed where b is not 0.
            distance: D; needed where b is not 0.
            resume: What :meth:`state_dict` gave, to go on from; the images to start from then only say how many.

        Returns:
            The optimised images, detached. ``self.last`` holds the last step's terms and gradient norms.

        Raises:
            NonFiniteLossError: A term is not finite, at ever lower learning rates.
            PSAQError: Memory runs out with a single image.
        """
        runner = self.runner
        lower, upper = pixel_bounds(runner.teacher)
        optimiser = SampleOptimiser(
            images.to(runner.device),
            lower.to(runner.device),
            upper.to(runner.device),
            lr=self.lr,
            steps=steps,
            warmup=min(self.warmup, steps // 2),
            augment=self.augment,
            generator=runner.generator,
            micro_batch=self.micro_batch.size,
            log_gradients=True,
            gradient_every=self.gradient_every,
        )
        self.goals = rms_differences(optimiser.images).mean(1) if self.keep_smoothness else None
        self.balance = 0.0
        if resume is not None:
            optimiser.load_state_dict(resume["optimiser"])
            self.goals, self.balance = resume["goals"], resume["balance"]
        with self.taps as taps:

            def loss(view: Tensor, b: float) -> dict[str, Tensor]:
                compared = bool(b) and outputs is not None and distance is not None
                with torch.autocast(view.device.type, torch.bfloat16, enabled=self.amp and not compared):
                    reference = (outputs if compared else backbone_outputs)(runner.teacher, view)
                goal = None if self.goals is None else self.goals[optimiser.part]
                entropy = self.entropy_of(taps.take(), optimiser.step_count)
                terms = {"entropy": self.entropy_weight * entropy, "prior": self.prior(view, goal)}
                if compared:
                    terms["competition"] = -b * distance(reference, outputs(runner.student, view))
                return terms

            if competition and resume is None:
                self.balance = self.with_room(optimiser, lambda: self.balanced(loss, optimiser, competition))
            backoff = Backoff(runner.logger.warning)
            while optimiser.step_count < steps:
                try:
                    self.last |= self.with_room(
                        optimiser, lambda: optimiser.step(lambda view: loss(view, self.balance))
                    )
                except NonFiniteLossError as error:
                    taps.take()
                    backoff.failed(error)
                    optimiser.lr /= 2
                    continue
                backoff.passed()
                after_step(optimiser)
        return optimiser.images.detach()

    def state_dict(self, optimiser: SampleOptimiser) -> dict[str, Any]:
        """What the rest of a batch's steps depend on: the optimiser, the images' smoothness and b."""
        return {"optimiser": optimiser.state_dict(), "goals": self.goals, "balance": self.balance}

    def entropy_of(self, layers: list[AttentionTokens], step: int) -> Tensor:
        """L_PSE.

        Raises:
            NonFiniteLossError: It is not finite; the message names the first layer at fault.
        """
        value = self.entropy(layers)
        if not torch.isfinite(value):
            usable = self.entropy.usable(layers)
            wrong = [one.layer for one in usable if not torch.isfinite(self.entropy.per_layer([one])).all()]
            raise NonFiniteLossError(f"entropy of layer {wrong[0]}" if wrong else "entropy", step)
        return value

    def with_room(self, optimiser: SampleOptimiser, call: Callable[[], T]) -> T:
        """Make a call that passes the optimiser's images through the networks, fewer at a time if memory runs out.

        Raises:
            PSAQError: It runs out with a single image.
        """
        drawn = self.runner.generator.get_state()

        def attempt(size: int) -> T:
            optimiser.micro_batch = size
            return call()

        def undo() -> None:
            self.runner.generator.set_state(drawn)
            self.taps.take()

        return self.micro_batch.run(len(optimiser.images), attempt, undo)

    def balanced(self, loss: Callable[..., dict[str, Tensor]], optimiser: SampleOptimiser, competition: float) -> float:
        """b, such that b D's gradient on the first chunk of images has the norm ``competition * |grad L_PSE|``."""
        optimiser.part = slice(optimiser.micro_batch)
        view = optimiser.images[optimiser.part].detach().requires_grad_(True)
        terms = loss(view, 1.0)
        if "competition" not in terms:
            return 0.0
        of_entropy = torch.autograd.grad(terms["entropy"], view, retain_graph=True)[0].norm()
        of_distance = torch.autograd.grad(terms["competition"], view)[0].norm()
        return competition * float(of_entropy / of_distance.clamp(min=1e-12))


def gradient_norm(parameters: list[torch.nn.Parameter]) -> float:
    """The L2 norm of all gradients together; parameters without a gradient count as 0."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
