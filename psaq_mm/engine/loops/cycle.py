"""The teacher-student cycle: images against the student, then the student against the teacher."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_world_size
from torch import Tensor, nn

from ...distillation.image_generator import Competition, gradient_norm
from ...distillation.recovery import Backoff, MicroBatch
from ...errors import UsageError
from ...generation import FeatureDistance, NonFiniteLossError, RollFlip, SampleOptimiser
from ...models import output_function
from ...quantization import freeze, relative_groups, unfreeze
from ...registry import LOOPS
from .base import StageLoop

if TYPE_CHECKING:
    from ..runner import DFQRunner


RATES = {"weight": 3e-3, "bias": 5e-4, "scale": 1e-3}


@LOOPS.register_module()
class CycleLoop(StageLoop):
    """``cycles`` times: generator steps on a batch of images, then student steps on the pool.

    Args:
        runner: The runner.
        cycles: How many; 0 leaves the student as calibration made it.
        generator_steps: Adam steps on the images in each cycle; 0 keeps the pool as it is.
        generator_images: How many images each cycle adds to the pool, over all processes.
        fresh: Which share of them starts anew, as the first images did; the others evolve from the pool's.
        start: What fresh images start from: ``'white'`` or ``'fractal'`` noise.
        generator: The keys of :class:`psaq_mm.distillation.image_generator.ImageGenerator`.
        competition: The share of b D's gradient in the generator's loss, relative to L_PSE's; 0 (b = 0) for none.
        student_steps: Adam steps on the student in each cycle.
        batch_size: Images of a student step, in each process.
        relative_lr: Adam's rates of ``weight``, ``bias`` and ``scale`` (activation ranges), relative to the size of
            what they move (:func:`psaq_mm.quantization.relative_groups`). They fall to 0 along a cosine over all
            cycles.
        lr: Refused: what rates were called while those of weights and biases were absolute.
        augment: The keys of :class:`psaq_mm.generation.RollFlip` for the student's images.
        distance: The keys of :class:`psaq_mm.generation.FeatureDistance`.
        place: What is compared: ``'backbone'``, ``'blocks'``, ``'neck'`` or ``'logits'``.
        save_interval: How often the state is saved within a cycle's student steps, in steps. Several processes
            save in generator steps and after a cycle, not here: they need not stand at the same step.
    """

    def __init__(
        self,
        runner: DFQRunner,
        cycles: int = 6,
        generator_steps: int = 10,
        generator_images: int = 16,
        fresh: float = 0.5,
        start: str = "fractal",
        generator: dict[str, Any] | None = None,
        competition: float = 1.0,
        student_steps: int = 10,
        batch_size: int = 8,
        relative_lr: dict[str, float] | None = None,
        augment: dict[str, Any] | None = None,
        distance: dict[str, Any] | None = None,
        place: str = "backbone",
        save_interval: int = 50,
        lr: dict[str, float] | None = None,
    ) -> None:
        super().__init__(runner)
        if lr is not None:
            raise UsageError(
                "dfq.cycle.lr is now relative_lr, relative to the size of each tensor: multiply its rate of weights by "
                "30 and that of biases by 5, leave that of scales"
            )
        self.save_interval = save_interval
        if min(cycles, generator_steps, student_steps) < 0:
            raise UsageError("cycles, generator_steps and student_steps of CycleLoop must not be negative")
        if not 0 <= fresh <= 1:
            raise UsageError(f"fresh={fresh} of CycleLoop is a share of the images: use 0 to 1")
        self.cycles, self.student_steps, self.batch_size = cycles, student_steps, batch_size
        self.generator_steps = generator_steps
        # Each process makes its share, rounded up, fresh ones too.
        self.generator_images = -(-generator_images // get_world_size())
        self.fresh, self.start = -(-round(fresh * generator_images) // get_world_size()), start
        self.competition = competition
        unknown = sorted(set(relative_lr or {}) - set(RATES))
        if unknown:
            raise UsageError(f"relative_lr has unknown keys {', '.join(unknown)}: known are {', '.join(RATES)}")
        self.relative_lr = {**RATES, **(relative_lr or {})}
        self.generator = self.image_generator(generator) if generator_steps else None
        self.augment = RollFlip(**(augment or {}))
        self.distance = FeatureDistance(**(distance or {})).to(runner.device)
        self.outputs = output_function(place, runner.teacher)
        self.micro_batch = MicroBatch(runner.logger.warning)

    def run(self) -> nn.Module:
        """Run what is left of the cycles; the state is saved after each, and within them at intervals."""
        runner = self.runner
        if self.cycles == 0:
            return runner.student
        # A run that stopped in a generator's steps left it frozen.
        unfreeze(runner.student)
        runner.freeze_untrained()
        self.fit_distance()
        done = runner.state.get("cycle", 0)
        optimizer = self.build_optimizer()
        self.micro_batch.size = runner.state.get("micro_batch")
        if "optimizer" in runner.state:
            optimizer.load_state_dict(runner.state["optimizer"])
        self.announce("distil", self.cycles * (self.generator_steps + self.student_steps))
        for cycle in range(done + 1, self.cycles + 1):
            part = runner.state.setdefault("part", {"generator": None, "terms": None, "step": 0, "losses": []})
            if part["terms"] is None:
                part.update(terms=self.generate(cycle, part), generator=None)
            terms = part["terms"] | self.distil(optimizer, cycle, part)
            del runner.state["part"]
            runner.state.update(cycle=cycle, optimizer=optimizer.state_dict(), micro_batch=self.micro_batch.size)
            runner.call_hook("after_cycle", cycle=cycle, cycles=self.cycles, terms=terms)
        for key in ("optimizer", "distance", "backoff", "micro_batch"):
            runner.state.pop(key, None)
        return runner.student

    def fit_distance(self) -> None:
        """Measure the distance's constants on the first samples; a resumed run goes on with those it had."""
        state = self.runner.state
        if "distance" in state:
            self.distance.load_state_dict(state["distance"])
            return
        first = self.runner.pool.first(self.batch_size).to(self.runner.device)
        with torch.no_grad():
            self.distance.fit(self.outputs(self.runner.teacher, first))
        state["distance"] = self.distance.state_dict()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Adam over the student's trainable parameters, each at a rate relative to its size."""
        groups = relative_groups(self.runner.student, self.relative_lr)
        return torch.optim.Adam([{**group, "base_lr": group["lr"]} for group in groups])

    def generate(self, cycle: int, part: dict[str, Any]) -> dict[str, float]:
        """The generator's half of a cycle: images against the frozen student, added to the pool.

        Args:
            cycle: Which cycle, from 1.
            part: How far it is; its ``generator`` is kept up to date.
        """
        if self.generator is None:
            return {}
        runner = self.runner
        offset = (cycle - 1) * (self.generator_steps + self.student_steps)
        resume = part["generator"]
        start = self.starting_images() if resume is None else resume["optimiser"]["images"]

        def after(optimiser: SampleOptimiser) -> None:
            step = optimiser.step_count

            def save() -> None:
                part["generator"] = self.generator.state_dict(optimiser)
                runner.save_state()

            self.advance("distil", offset + step, save, due=step % self.generator.save_interval == 0)

        freeze(runner.student)
        runner.student.requires_grad_(False)
        images = self.generator.optimise(
            start,
            self.generator_steps,
            after,
            Competition(runner.student, self.outputs, self.distance, self.competition),
            resume,
        )
        runner.student.requires_grad_(True)
        unfreeze(runner.student)
        runner.freeze_untrained()
        runner.pool.add(self.gather([images]), tag=f"cycle {cycle}")
        return {f"generator/{name}": value for name, value in self.generator.last.items()}

    def starting_images(self) -> Tensor:
        """What a cycle's images start from: some new, some of the pool."""
        runner, parts = self.runner, []
        if self.fresh:
            parts.append(self.new_images(self.fresh, runner.pool.image_size, self.start))
        if self.fresh < self.generator_images:
            parts.append(runner.pool.sample(self.generator_images - self.fresh, runner.generator, newest=0.0))
        return torch.cat(parts)

    def distil(self, optimizer: torch.optim.Optimizer, cycle: int, part: dict[str, Any]) -> dict[str, float]:
        """The student's half of a cycle.

        Args:
            optimizer: The student's.
            cycle: Which cycle, from 1.
            part: How far it is; its ``step`` and ``losses`` are kept up to date.

        Raises:
            NonFiniteLossError: The distance or its gradient is not finite, at ever lower rates; the student keeps the
                weights of the step before.
        """
        runner = self.runner
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        offset = (cycle - 1) * (self.generator_steps + self.student_steps) + self.generator_steps
        total, losses, norm = self.cycles * self.student_steps, part["losses"], 0.0
        backoff = Backoff(runner.logger.warning, runner.state.get("backoff", 1.0))

        def save() -> None:
            runner.state.update(optimizer=optimizer.state_dict(), micro_batch=self.micro_batch.size)
            runner.save_state()

        while (step := part["step"] + 1) <= self.student_steps:
            decay = 0.5 * (1 + math.cos(math.pi * ((cycle - 1) * self.student_steps + step - 1) / total))
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * decay * backoff.scale
            images = runner.pool.sample(self.batch_size, runner.generator).to(runner.device)
            images = self.augment(images, runner.generator)
            loss = self.micro_batch.run(len(images), partial(self.differentiate, images, optimizer))
            # Averaged before they are looked at, so that all processes skip a step or none.
            all_reduce_params([p.grad for p in parameters if p.grad is not None], op="mean")
            norm, value = gradient_norm(parameters), loss.clone()
            all_reduce(value)
            if not math.isfinite(norm) or not torch.isfinite(value):
                term = "gradient of the student distance" if torch.isfinite(value) else "student distance"
                backoff.failed(NonFiniteLossError(term, (cycle - 1) * self.student_steps + step))
                runner.state["backoff"] = backoff.scale
                continue
            backoff.passed()
            optimizer.step()
            losses.append(float(loss))
            part["step"] = step
            alone = get_world_size() == 1
            self.advance("distil", offset + step, save if alone else None, due=step % self.save_interval == 0)
        if not losses:
            return {}
        return {"student/distance": sum(losses) / len(losses), "student/distance_grad": norm}

    def differentiate(self, images: Tensor, optimizer: torch.optim.Optimizer, size: int) -> Tensor:
        """The distance on a batch, and its gradient on the student's parameters; so many images at a time."""
        runner, total = self.runner, torch.zeros((), device=images.device)
        optimizer.zero_grad()
        for part in images.split(size):
            with torch.no_grad():
                reference = self.outputs(runner.teacher, part)
            loss = len(part) / len(images) * self.distance(reference, self.outputs(runner.student, part))
            loss.backward()
            total += loss.detach()
        return total
