"""How fast whole models are: torch, every engine in FP32 and in INT8, and NNCF's INT8, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from benchmarks.deployment_benchmark import quartiles
from benchmarks.model_files import ENGINE_OF, FLOAT, INTEGER, NNCF, TORCH, Contender, ModelFiles, load_model
from benchmarks.model_inputs import part_inputs
from benchmarks.model_run import ALL, GLUE, Batch, FixedRois, WholeModel, fix_rois
from benchmarks.model_startup import startup
from benchmarks.nncf_parts import quantize_with_nncf
from benchmarks.timing import interleaved, ratio, threads
from psaq_mm.deployment import ENGINES, by_kind, open_session
from psaq_mm.deployment.parts import IMAGES, static_parts
from psaq_mm.quantization import sqnr
from psaq_mm.utils.memory import give_back_freed_memory

PROFILED, STARTED = 5, 3  # most rounds of profiles, most processes of a start-up
Seconds = dict[Contender, dict[str, list[float]]]


class ModelBenchmark:
    """Times a model's contenders from normalised image to predictions, and each of their parts.

    Args:
        name: What the rows call the model.
        cfg: The recipe.
        teacher: The float model.
        student: The calibrated model, quantized as a whole.
        batches: Images: the first is the one that is timed.
        folder: For the contenders' files.
        cores: Threads of torch and of the engines.
        rois: Numbers of boxes that all contenders have; None to let them find their own.
        nncf: Images for NNCF's calibration; None leaves it out.
    """

    def __init__(
        self,
        name: str,
        cfg: Config,
        teacher: nn.Module,
        student: nn.Module,
        batches: Sequence[Batch],
        folder: Path,
        cores: int,
        rois: FixedRois | None = None,
        nncf: Sequence[Batch] | None = None,
    ) -> None:
        height, width = batches[0][0].shape[-2:]
        self.name, self.size, self.threads = name, (height, width), cores
        self.teacher, self.batches, self.rois = teacher, batches, rois
        self.parts = static_parts(teacher)
        self.files = ModelFiles(cfg, folder, self.size, cores)
        self.files.export(FLOAT, teacher)
        self.files.export(INTEGER, student)
        if rois is not None:
            fix_rois(teacher, self.size, rois)
        if nncf is not None:
            inputs = part_inputs(teacher, self.parts, nncf)
            for part in self.parts:
                source = self.files.files["openvino", FLOAT][part.name]
                quantize_with_nncf(source, self.files.path((NNCF, INTEGER), part.name), inputs[part.name])
        self.files.save_torch(teacher)
        for contender in self.files.files:
            self.files.save_deployed(contender, teacher, self.parts)
        self.contenders = [(TORCH, FLOAT), *self.files.files]
        self.inputs = part_inputs(teacher, self.parts, batches[:1], limit=None)

    @property
    def label(self) -> str:
        """With what the keys of ratios and profiles begin."""
        return f"{self.name} {self.size[0]}x{self.size[1]}: "

    def run(self, rounds: int, compare: bool) -> dict[str, Any]:
        """Time everything.

        Args:
            rounds: How often; figures are medians.
            compare: Whether to compare the integer parts with the float ones, for which weights must be real.

        Returns:
            ``{"rows", "ratios", "startup", "profile"}``, see :mod:`psaq_mm.utils.records`.
        """
        with threads(self.threads):
            seconds = self.times(rounds)
            give_back_freed_memory()  # the models of six contenders, which refer to themselves
            noise = {one: self.noise(one) if compare else {} for one in self.contenders if one[1] == INTEGER}
        rows = [row for one in self.contenders for row in self.rows(one, seconds[one], noise.get(one, {}))]
        return {
            "rows": rows,
            "ratios": {self.label + key: round(value, 3) for key, value in self.ratios(seconds).items()},
            "startup": {self.label + " ".join(one): self.startup(one, rounds) for one in self.contenders},
            "profile": {
                f"{self.label}{' '.join(one)}, {part.name}": self.profile(one, part.name, rounds)
                for one in self.contenders
                for part in self.parts
                if one[1] == INTEGER
            },
        }

    def times(self, rounds: int) -> Seconds:
        """Seconds of each round by contender and stage: whole model, parts, and the code between them."""
        models: dict[Contender, WholeModel] = {}
        for contender in self.contenders:
            model = load_model(self.files.place(contender))
            if self.rois is not None:
                fix_rois(model, self.size, self.rois)
            models[contender] = WholeModel(model, self.parts, self.batches[0])
        calls: dict[str, Callable[[], object]] = {" ".join(one): call for one, call in models.items()}
        give_back_freed_memory()
        whole = interleaved(calls, rounds, warmup=1)
        found: Seconds = {}
        for contender, timed in models.items():
            stages = timed.seconds[-rounds:]
            found[contender] = {ALL: whole[" ".join(contender)]}
            found[contender] |= {key: [one[key] for one in stages] for key in stages[0]}
        return found

    def rows(self, contender: Contender, seconds: dict[str, list[float]], noise: dict[str, float]) -> list[Any]:
        """A row for each stage of a contender."""
        found = []
        for stage, taken in seconds.items():
            mib = None if stage == GLUE else self.files.mib(contender, None if stage == ALL else stage)
            inputs = self.inputs.get(IMAGES if stage in (ALL, GLUE) else stage)
            found.append(
                {
                    "model": self.name,
                    "size": f"{self.size[0]}x{self.size[1]}",
                    "engine": contender[0],
                    "precision": contender[1],
                    "stage": stage,
                    "batch": len(inputs[0]) if inputs else 0,
                    "rounds": len(taken),
                    "seconds_median": round(statistics.median(taken), 5),
                    "seconds_quartiles": [round(one, 5) for one in quartiles(taken)],
                    "share": round(sum(taken) / sum(seconds[ALL]), 4),
                    "file_mib": None if mib is None else round(mib, 3),
                    "sqnr_db": noise.get(stage),
                    "fixed_rois": self.rois is not None,
                }
            )
        return found

    def ratios(self, seconds: Seconds) -> dict[str, float]:
        """How many times faster integers are, whole and in the parts alone, and how much smaller their files."""
        parts = {one: parts_only(stages) for one, stages in seconds.items()}
        best = min(ENGINES, key=lambda engine: statistics.median(seconds[engine, INTEGER][ALL]))
        found = {"torch fp32 / int8": ratio(seconds[TORCH, FLOAT][ALL], seconds[best, INTEGER][ALL])}
        for engine in ENGINES:
            found[f"{engine} fp32 / int8"] = ratio(seconds[engine, FLOAT][ALL], seconds[engine, INTEGER][ALL])
            found[f"{engine} fp32 / int8 (all parts)"] = ratio(parts[engine, FLOAT], parts[engine, INTEGER])
        if (NNCF, INTEGER) in seconds:
            ours = ENGINE_OF[NNCF], INTEGER
            found["int8 / nncf"] = ratio(seconds[ours][ALL], seconds[NNCF, INTEGER][ALL])
            found["int8 / nncf (all parts)"] = ratio(parts[ours], parts[NNCF, INTEGER])
        sizes = {precision: self.files.mib((best, precision)) or 0.0 for precision in (FLOAT, INTEGER)}
        return {**found, "file int8 / fp32": sizes[INTEGER] / sizes[FLOAT]}

    def startup(self, contender: Contender, rounds: int) -> dict[str, float | None]:
        """Seconds and memory until the first predictions, and the size of the files."""
        images = self.batches[0][0]
        rois = self.rois or (
            FixedRois(self.boxes("bbox_head"), self.boxes("mask_head")) if self.inputs.keys() - {IMAGES} else None
        )
        shape = images.shape[1], *self.size
        found = startup(contender, self.files.place(contender), shape, self.threads, rois, min(rounds, STARTED))
        return {**found, "file_mib": round(self.files.mib(contender) or 0.0, 3)}

    def boxes(self, kind: str) -> int:
        """How many boxes the first head of a kind received."""
        return next((len(inputs[0]) for name, inputs in self.inputs.items() if name.startswith(kind) and inputs), 1)

    def profile(self, contender: Contender, part: str, rounds: int) -> dict[str, float]:
        """Seconds of a pass of a part by kind of operator, which timing itself slows down."""
        engine, file = ENGINE_OF[contender[0]], self.files.files[contender][part]
        session = open_session(engine, file, self.threads, profile=True)
        taken = by_kind(session.profile([self.inputs[part][0].numpy()], min(rounds, PROFILED)))
        return {kind: round(seconds, 6) for kind, seconds in taken.items()}

    def noise(self, contender: Contender) -> dict[str, float]:
        """The lowest SQNR in dB over the outputs of each part, with the float part in torch as reference."""
        inputs = part_inputs(self.teacher, self.parts, self.batches)
        found = {}
        for part in self.parts:
            engine, file = ENGINE_OF[contender[0]], self.files.files[contender][part.name]
            session = open_session(engine, file, self.threads)
            expected: list[list[Tensor]] = []
            computed: list[list[Tensor]] = []
            for one in inputs[part.name]:
                with torch.no_grad():
                    expected.append([output.flatten() for output in part.graph(one)])
                computed.append([torch.from_numpy(output).flatten() for output in session.run(one.numpy())])
            levels = zip(zip(*expected, strict=True), zip(*computed, strict=True), strict=True)
            found[part.name] = round(min(sqnr(torch.cat(ours), torch.cat(theirs)) for ours, theirs in levels), 1)
        return found


def parts_only(stages: dict[str, list[float]]) -> list[float]:
    """Seconds of all parts together, in every round."""
    return [sum(one) for one in zip(*(taken for key, taken in stages.items() if key not in (ALL, GLUE)), strict=True)]
