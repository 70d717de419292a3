"""The teacher-student cycle of PSAQ-ViT V2: generator steps and student steps in alternation.

Each cycle optimizes a batch of images (generator steps, :mod:`.generator_step`), adds it to the pool, and trains the
student on samples of the pool (student steps, :mod:`.student_step`)::

    G:  min_x      L_PSE(x) + a L_TV(x) - b D(T(x), S(x))
    S:  min_theta  D(T(x), S_theta(x))

The pool, the choice of b, the images that are held out and the skipping of non-finite steps are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GenerationError
from ..generation import Discrepancy, ImageOptimizer, RollFlip, SamplePool
from .generate import ImageSource
from .generator_step import Competition, ImageGenerator
from .networks import Events, Outputs, Processes
from .recovery import Backoff, MicroBatch
from .state import CyclePart, DistillState
from .student_step import StudentTrainer, checked_rates, freeze_student, unfreeze_student

STAGE = "distill"


@dataclass(frozen=True)
class CycleSettings:
    """Settings of the teacher-student cycle.

    Attributes:
        cycles: Number of cycles; 0 leaves the student unchanged after calibration.
        generator_steps: Adam steps on the images in each cycle; 0 leaves the pool unchanged.
        generator_images: Images that each cycle adds to the pool, over all processes.
        fresh: Share of these images that starts from noise, in [0, 1]; the others start from images of the pool.
        start: Name of the noise (:func:`psaq_mm.generation.initial_images`).
        competition: Gradient norm of b D relative to that of L_PSE, which sets b; 0 for b = 0.
        student_steps: Adam steps on the student in each cycle.
        batch_size: Images of a student step, in each process.
        relative_lr: Adam's learning rates of ``weight``, ``bias`` and ``scale``, relative to the magnitude of each
            tensor.
        augment: The keys of :class:`psaq_mm.generation.RollFlip` for the student's images.
        held_out: Images of the first samples that no student step sees, at most a quarter of them. The student that has
            the smallest discrepancy on them, of those before the first cycle and after each one, is the result; 0 for
            the student of the last cycle.
        save_interval: Student steps between two saved states within a cycle.

    Raises:
        GenerationError: A value lies outside its range.
    """

    cycles: int = 6
    generator_steps: int = 10
    generator_images: int = 16
    fresh: float = 0.5
    start: str = "fractal"
    competition: float = 1.0
    student_steps: int = 10
    batch_size: int = 8
    relative_lr: dict[str, float] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0
    save_interval: int = 50

    def __post_init__(self) -> None:
        if min(self.cycles, self.generator_steps, self.student_steps, self.held_out) < 0:
            raise GenerationError(
                "cycles, generator_steps, student_steps and held_out must not be negative: use 0 for none"
            )
        if not 0 <= self.fresh <= 1:
            raise GenerationError(f"fresh={self.fresh} is a share of the images: use 0 to 1")
        object.__setattr__(self, "relative_lr", checked_rates(self.relative_lr))

    @property
    def steps(self) -> int:
        """Generator and student steps of one cycle."""
        return self.generator_steps + self.student_steps


class TeacherStudentCycle:
    """Optimizes samples and student against the teacher in alternation.

    Example, without a runner::

        source = ImageSource(teacher, torch.Generator().manual_seed(0))
        generator = ImageGenerator(teacher, source.generator, 0, print)
        TeacherStudentCycle(source, student, pool, outputs, Discrepancy(), CycleSettings(), generator).run()

    Args:
        source: The teacher and the run's random numbers.
        student: The quantized network, calibrated.
        pool: The samples so far, at least one.
        outputs: The outputs that teacher and student are compared on.
        discrepancy: The discrepancy D.
        settings: Numbers of steps, batch sizes and rates.
        generator: Optimizes the images; None if ``settings.generator_steps`` is 0.
        state: Updated while the cycle runs; a resumed run passes its saved state.
        processes: The processes that share the run.
        events: Receives the progress.
    """

    def __init__(
        self,
        source: ImageSource,
        student: nn.Module,
        pool: SamplePool,
        outputs: Outputs,
        discrepancy: Discrepancy,
        settings: CycleSettings,
        generator: ImageGenerator | None,
        state: DistillState | None = None,
        processes: Processes | None = None,
        events: Events | None = None,
    ) -> None:
        self.source, self.student, self.pool = source, student, pool
        self.outputs, self.discrepancy = outputs, discrepancy.to(source.teacher.device)
        self.settings, self.generator = settings, generator
        self.state, self.processes, self.events = state or DistillState(), processes or Processes(), events or Events()
        self.augment = RollFlip(**settings.augment)
        self.micro_batch = MicroBatch(self.events.warn)
        # The shares of the processes are rounded up, for all images and for those that start from noise.
        total = settings.generator_images
        self.images = -(-total // self.processes.size)
        self.fresh = -(-round(settings.fresh * total) // self.processes.size)

    def run(self) -> nn.Module:
        """Run the remaining cycles.

        Returns:
            The student.

        Raises:
            NonFiniteLossError: Several steps in a row were not finite.
            PSAQError: Memory runs out with a single image.
        """
        settings, state = self.settings, self.state
        if settings.cycles == 0:
            return self.student
        unfreeze_student(self.student)  # the state of a run that stopped in a generator step holds a frozen student
        self.fit_discrepancy()
        held_out = min(settings.held_out, len(self.pool) // 4)
        if held_out and state.best is None:
            self.pool.hold_out(held_out)
            self.keep_best()
        trainer = StudentTrainer(
            self.source.teacher.model,
            self.student,
            self.outputs,
            self.discrepancy,
            settings.cycles * settings.student_steps,
            settings.relative_lr,
            self.micro_batch,
            self.processes,
        )
        self.micro_batch.size = state.micro_batch
        if state.optimizer is not None:
            trainer.optimizer.load_state_dict(state.optimizer)
        self.events.begin(STAGE, settings.cycles * settings.steps)
        for cycle in range(state.cycle + 1, settings.cycles + 1):
            part = state.part = state.part or CyclePart()
            if part.terms is None:
                part.terms, part.generator = self.improve_images(cycle, part), None
            terms = part.terms | self.improve_student(trainer, cycle, part)
            if state.best is not None:
                terms["student/held_out"] = self.keep_best()
            state.part, state.cycle = None, cycle
            state.optimizer, state.micro_batch = trainer.optimizer.state_dict(), self.micro_batch.size
            self.events.cycle(cycle, settings.cycles, terms)
        if state.best is not None:
            self.student.load_state_dict(state.best["student"])
            unfreeze_student(self.student)
        state.optimizer, state.discrepancy, state.micro_batch, state.backoff, state.best = None, None, None, 1.0, None
        return self.student

    def fit_discrepancy(self) -> None:
        """Compute the constants of the discrepancy on the first samples; a resumed run restores them."""
        if self.state.discrepancy is not None:
            self.discrepancy.load_state_dict(self.state.discrepancy)
            return
        teacher = self.source.teacher
        first = self.pool.first(self.settings.batch_size).to(teacher.device)
        with torch.no_grad():
            self.discrepancy.fit(self.outputs(teacher.model, first))
        self.state.discrepancy = self.discrepancy.state_dict()

    def keep_best(self) -> float:
        """Compute the discrepancy on the images that are held out, and keep the student if it is the smallest so far.

        Returns:
            The mean discrepancy over the images.
        """
        device, held = self.source.teacher.device, self.pool.held
        value = torch.zeros((), dtype=torch.float64, device=device)
        with torch.no_grad():
            for part in torch.split(held, self.micro_batch.size or self.settings.batch_size):
                part = part.to(device)
                loss = self.discrepancy(self.outputs(self.source.teacher.model, part), self.outputs(self.student, part))
                value += loss.double() * len(part) / len(held)
        # All processes keep the same student.
        self.processes.sum(value)
        found = float(value) / self.processes.size
        best = self.state.best
        # A discrepancy that is not a number is never the smallest.
        if best is None or found < best["discrepancy"]:
            student = {key: one.detach().cpu().clone() for key, one in self.student.state_dict().items()}
            self.state.best = {"discrepancy": found, "cycle": self.state.cycle, "student": student}
        return found

    def improve_images(self, cycle: int, part: CyclePart) -> dict[str, float]:
        """Take the generator steps of a cycle against the frozen student and add the images to the pool.

        Args:
            cycle: Number of the cycle, from 1.
            part: Progress within the cycle; ``part.generator`` is updated.

        Returns:
            Loss terms and gradient norms of the last step.
        """
        generator, settings = self.generator, self.settings
        if generator is None or not settings.generator_steps:
            return {}
        offset = (cycle - 1) * settings.steps
        start = self.starting_images() if part.generator is None else part.generator.optimizer["images"]

        def after_step(optimizer: ImageOptimizer) -> None:
            def save() -> None:
                part.generator = generator.state(optimizer)
                self.events.save()

            step = optimizer.step_count
            self.events.step(STAGE, offset + step, save, due=step % generator.save_interval == 0)

        freeze_student(self.student)
        competition = Competition(self.student, self.outputs, self.discrepancy, settings.competition)
        images = generator.optimize(start, settings.generator_steps, after_step, competition, part.generator)
        unfreeze_student(self.student)
        self.pool.add(self.processes.gather([images]), tag=f"cycle {cycle}")
        return {f"generator/{name}": value for name, value in generator.last.items()}

    def starting_images(self) -> Tensor:
        """Initial images of the generator steps: noise, then samples of the pool, ``(images, channels, H, W)``."""
        parts = []
        if self.fresh:
            parts.append(self.source.images(self.fresh, self.pool.image_size, self.settings.start))
        if self.fresh < self.images:
            parts.append(self.pool.sample(self.images - self.fresh, self.source.generator, newest=0.0))
        return torch.cat(parts)

    def improve_student(self, trainer: StudentTrainer, cycle: int, part: CyclePart) -> dict[str, float]:
        """Take the student steps of a cycle.

        Args:
            trainer: The optimizer of the student.
            cycle: Number of the cycle, from 1.
            part: Progress within the cycle; ``part.step`` and ``part.losses`` are updated.

        Returns:
            The mean discrepancy and the gradient norm of the last step.
        """
        settings, state, generator = self.settings, self.state, self.source.generator
        before = (cycle - 1) * settings.student_steps
        offset = (cycle - 1) * settings.steps + settings.generator_steps
        backoff = Backoff(self.events.warn, state.backoff)

        def save() -> None:
            state.optimizer, state.micro_batch = trainer.optimizer.state_dict(), self.micro_batch.size
            self.events.save()

        # Processes may be at different steps here, so several processes do not save within student steps.
        saves: Callable[[], None] | None = save if self.processes.size == 1 else None
        while part.step < settings.student_steps:
            images = self.pool.sample(settings.batch_size, generator).to(self.source.teacher.device)
            images = self.augment(images, generator)
            loss = trainer.step(images, before + part.step, backoff)
            state.backoff = backoff.scale
            if loss is None:
                continue
            part.losses.append(loss)
            part.step += 1
            self.events.step(STAGE, offset + part.step, saves, due=part.step % settings.save_interval == 0)
        if not part.losses:
            return {}
        return {
            "student/discrepancy": sum(part.losses) / len(part.losses),
            "student/discrepancy_grad": trainer.norm,
        }
