"""The generator step: images that minimise ``L_PSE + a L_TV - b D(teacher, student)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import PSAQError
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
from ..models import AttentionTaps, OutputFunction, backbone_of, backbone_outputs, pixel_units
from .recovery import Backoff, MicroBatch

T = TypeVar("T")


@dataclass(frozen=True)
class Competition:
    """What images seek out: the discrepancy D of a student.

    Attributes:
        student: Quantized and frozen.
        outputs: What teacher and student are compared on.
        distance: D.
        share: How hard; 0 for not at all. Relative: b is set so that b D's gradient has, on the images that a batch
            starts from, this share of L_PSE's. D itself is a hundred times larger at 4 bits than at 8, so a constant b
            would be no competition here and chaos there.
    """

    student: nn.Module
    outputs: OutputFunction
    distance: FeatureDistance
    share: float = 1.0


class ImageGenerator:
    """Optimises batches of images against the teacher, and against the student where there is a competition.

    Args:
        teacher: The float model.
        generator: Of the views that steps look at.
        seed: Of the smoothness that images aim at; of its own, so that a resumed run aims at the same.
        warn: Told of steps that are skipped and of batches that are halved.
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
        teacher: nn.Module,
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
        self.taps = AttentionTaps(backbone_of(teacher)[1])
        self.last: dict[str, float] = {}
        self.goals: Tensor | None = None
        self.balance = 0.0

    def optimise(
        self,
        images: Tensor,
        steps: int,
        after_step: Callable[[SampleOptimiser], None],
        competition: Competition | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Tensor:
        """Optimise a batch.

        Args:
            images: ``(B, channels, H, W)`` to start from, as the network gets them.
            steps: How many Adam steps.
            after_step: Called with the optimiser after each step.
            competition: The student that the images seek the weaknesses of; None for L_PSE and the prior alone.
            resume: What :meth:`state_dict` gave, to go on from; the images to start from then only say how many.

        Returns:
            The optimised images, as the network gets them, detached. ``self.last`` holds the last step's terms and
            gradient norms.

        Raises:
            NonFiniteLossError: A term is not finite, at ever lower learning rates.
            PSAQError: Memory runs out with a single image.
        """
        units = pixel_units(self.teacher)
        device = next(self.teacher.parameters()).device
        optimiser = SampleOptimiser(
            units.from_network(images.to(device)),
            units.lower.to(device),
            units.upper.to(device),
            lr=self.lr,
            steps=steps,
            warmup=min(self.warmup, steps // 2),
            augment=self.augment,
            generator=self.generator,
            micro_batch=self.micro_batch.size,
            log_gradients=True,
            gradient_every=self.gradient_every,
        )
        self.goals = rms_differences(optimiser.images).mean(1) if self.keep_smoothness else None
        self.balance = 0.0
        if resume is not None:
            optimiser.load_state_dict(resume["optimiser"])
            goals, self.balance = resume["goals"], resume["balance"]
            self.goals = None if goals is None else goals.to(device)
            # What was found to fit: sums over other chunks would differ in their last bits.
            self.micro_batch.size = optimiser.micro_batch
        with self.taps as taps:

            def loss(view: Tensor, b: float) -> dict[str, Tensor]:
                rival = competition if b else None
                outputs = rival.outputs if rival else backbone_outputs
                seen = units.to_network(view)
                with torch.autocast(view.device.type, torch.bfloat16, enabled=self.amp and not rival):
                    reference = outputs(self.teacher, seen)
                goal = None if self.goals is None else self.goals[optimiser.part]
                entropy = self.entropy_of(taps.take(), optimiser.step_count)
                terms = {"entropy": self.entropy_weight * entropy, "prior": self.prior(view, goal)}
                if rival:
                    found = outputs(rival.student, seen)
                    if not any(one.requires_grad for one in found):
                        raise PSAQError(without_gradient("the student's outputs"))
                    terms["competition"] = -b * rival.distance(reference, found)
                return terms

            if competition and competition.share and resume is None:
                share = competition.share
                self.balance = self.with_room(optimiser, lambda: self.balanced(loss, optimiser, share))
            backoff = Backoff(self.warn)
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
        return units.to_network(optimiser.images.detach())

    def state_dict(self, optimiser: SampleOptimiser) -> dict[str, Any]:
        """What the rest of a batch's steps depend on: the optimiser, the images' smoothness and b."""
        return {"optimiser": optimiser.state_dict(), "goals": self.goals, "balance": self.balance}

    def entropy_of(self, layers: list[AttentionTokens], step: int) -> Tensor:
        """L_PSE.

        Raises:
            PSAQError: A layer's tokens carry no gradient to the images, which would then not move.
            NonFiniteLossError: It is not finite; the message names the first layer at fault.
        """
        cut = [one.layer for one in layers if not one.tokens.requires_grad]
        if cut and torch.is_grad_enabled():
            raise PSAQError(without_gradient(f"the tokens of {len(cut)} attention layers, first {cut[0]}"))
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
        drawn = self.generator.get_state()

        def attempt(size: int) -> T:
            optimiser.micro_batch = size
            return call()

        def undo() -> None:
            self.generator.set_state(drawn)
            self.taps.take()

        return self.micro_batch.run(len(optimiser.images), attempt, undo)

    def balanced(self, loss: Callable[..., dict[str, Tensor]], optimiser: SampleOptimiser, share: float) -> float:
        """b, such that b D's gradient on the first chunk of images has the norm ``share * |grad L_PSE|``."""
        optimiser.part = slice(optimiser.micro_batch)
        view = optimiser.images[optimiser.part].detach().requires_grad_(True)
        terms = loss(view, 1.0)
        of_entropy = torch.autograd.grad(terms["entropy"], view, retain_graph=True)[0].norm()
        of_distance = torch.autograd.grad(terms["competition"], view)[0].norm()
        return share * float(of_entropy / of_distance.clamp(min=1e-12))


def without_gradient(what: str) -> str:
    """The message for what generation cannot move images by."""
    return (
        f"{what}, carry no gradient to the images: the model computes them under torch.no_grad, detached or with "
        "re-entrant checkpointing; switch that off in its config"
    )


def gradient_norm(parameters: list[torch.nn.Parameter]) -> float:
    """The L2 norm of all gradients together; parameters without a gradient count as 0."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
