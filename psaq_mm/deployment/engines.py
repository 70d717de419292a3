"""A common interface to the engines that run exported files."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import ExportError

ENGINES = ("onnxruntime", "openvino")


class Session(Protocol):
    """An exported file loaded into an engine.

    Attributes:
        shape: Shape of its input: batch, channels, height, width.
        maps: Height and width of each output; None for an output that is not a feature map.
    """

    shape: tuple[int, int, int, int]
    maps: list[tuple[int, int] | None]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs for float32 images of exactly the shape :attr:`shape`."""

    def profile(self, images: np.ndarray, rounds: int) -> dict[str, float]:
        """Seconds of a forward pass by operator type, mean over ``rounds``; the session needs ``profile=True``."""


class OnnxRuntimeSession:
    """ONNX Runtime on the CPU.

    Args:
        file: An ONNX file.
        threads: Threads per operator; None for the engine's default.
        profile: Whether to measure the time of each operator.
    """

    def __init__(self, file: Path, threads: int | None = None, profile: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if profile:
            self.folder = tempfile.TemporaryDirectory()  # the engine writes its profile to a file
            options.enable_profiling, options.profile_file_prefix = True, str(Path(self.folder.name, "profile"))
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.shape = fixed(self.input.shape, file)
        self.maps = [sides(output.shape) for output in self.session.get_outputs()]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See :class:`Session`."""
        return list(self.session.run(None, {self.input.name: images}))

    def profile(self, images: np.ndarray, rounds: int) -> dict[str, float]:
        """See :class:`Session`; works only once for each session."""
        for _ in range(rounds + 1):
            self.run(images)
        events = json.loads(Path(self.session.end_profiling()).read_text())
        self.folder.cleanup()
        timed = [one for one in events if one["cat"] == "Node" and one["name"].endswith("_kernel_time")]
        taken: Counter[str] = Counter()
        for event in timed[len(timed) // (rounds + 1) :]:  # the first pass warms up
            taken[event["args"]["op_name"]] += event["dur"] / 1e6 / rounds
        return dict(taken)


class OpenVINOSession:
    """OpenVINO on the CPU.

    Args:
        file: An ONNX file or an IR (``.xml``).
        threads: Number of threads; None for the engine's default.
        profile: Whether to measure the time of each operator.
    """

    def __init__(self, file: Path, threads: int | None = None, profile: bool = False) -> None:
        import openvino

        # The default is bfloat16 on newer CPUs, which would change the outputs.
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        options["PERF_COUNT"] = profile
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.model = openvino.Core().compile_model(str(file), "CPU", options)
        self.shape = fixed(list(self.model.inputs[0].shape), file)
        self.maps = [sides(list(output.shape)) for output in self.model.outputs]
        self.request = self.model.create_infer_request()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See :class:`Session`."""
        found = self.request.infer([images])
        return [np.array(found[output]) for output in self.model.outputs]

    def profile(self, images: np.ndarray, rounds: int) -> dict[str, float]:
        """See :class:`Session`."""
        taken: Counter[str] = Counter()
        self.run(images)
        for _ in range(rounds):
            self.run(images)
            for operator in self.request.profiling_info:
                taken[operator.node_type] += operator.real_time.total_seconds() / rounds
        return dict(taken)


def open_session(engine: str, file: Path, threads: int | None = None, profile: bool = False) -> Session:
    """Load a file into an engine.

    Args:
        engine: One of :data:`ENGINES`.
        file: The exported file.
        threads: Number of threads; None for the engine's default.
        profile: Whether to measure the time of each operator.

    Raises:
        ExportError: The engine is unknown or not installed, or the file is missing or cannot be read.
    """
    if engine not in ENGINES:
        raise ExportError(f"engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
    if find_spec(engine) is None:
        raise ExportError(f"{engine} is not installed: pip install 'psaq_mm[deploy]'")
    if not file.is_file():
        raise ExportError(f"there is no exported model at {file}: make it with tools/export.py")
    kind = OnnxRuntimeSession if engine == "onnxruntime" else OpenVINOSession
    try:
        return kind(file, threads, profile)
    except ExportError:
        raise
    except Exception as error:  # the engines raise exceptions of their own and plain RuntimeErrors
        raise ExportError(
            f"{engine} cannot read {file} ({str(error).strip().splitlines()[0]}): export it anew"
        ) from None


def fixed(shape: Sequence[Any], file: Path) -> tuple[int, int, int, int]:
    """The shape of the input.

    Raises:
        ExportError: It is not fixed.
    """
    if len(shape) != 4 or not all(isinstance(length, int) for length in shape):
        raise ExportError(f"{file} has no fixed image size ({list(shape)}): make it with tools/export.py")
    return shape[0], shape[1], shape[2], shape[3]


def sides(shape: Sequence[Any]) -> tuple[int, int] | None:
    """Height and width of a feature map ``(batch, channels, height, width)``; None for other shapes."""
    return (int(shape[2]), int(shape[3])) if len(shape) == 4 else None
