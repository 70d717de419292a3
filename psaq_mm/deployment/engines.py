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
# Passes that no profile counts.
WARM_UP = 2
Shape = tuple[int | None, ...]
InputShape = tuple[int | None, int, int, int]


class Session(Protocol):
    """An exported file loaded into an engine.

    Attributes:
        shape: Shape of its first input: batch (None for any), channels, height, width. Exported models have one input.
        outputs: Shape of each output by name; the batch may be None.
    """

    shape: InputShape
    outputs: dict[str, Shape]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for float32 inputs, of which the first has exactly the shape :attr:`shape`."""

    def profile(self, inputs: Sequence[np.ndarray], passes: int) -> dict[str, float]:
        """Seconds of a forward pass by operator type, mean over some passes after :data:`WARM_UP`.

        The session needs ``profile=True``; each session has one profile.
        """


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
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.shape = fixed(with_any_batch(self.session.get_inputs()[0].shape), file)
        self.outputs = {one.name: with_any_batch(one.shape) for one in self.session.get_outputs()}

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """See :class:`Session`."""
        return list(self.session.run(None, dict(zip(self.inputs, inputs, strict=True))))

    def profile(self, inputs: Sequence[np.ndarray], passes: int) -> dict[str, float]:
        """See :class:`Session`."""
        for _ in range(WARM_UP + passes):
            self.run(*inputs)
        events = json.loads(Path(self.session.end_profiling()).read_text())
        self.folder.cleanup()
        timed = [one for one in events if one["cat"] == "Node" and one["name"].endswith("_kernel_time")]
        taken: Counter[str] = Counter()
        for event in timed[len(timed) * WARM_UP // (WARM_UP + passes) :]:
            taken[event["args"]["op_name"]] += event["dur"] / 1e6 / passes
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
        core = openvino.Core()
        read = core.read_model(str(file))
        # Of the model as read: outputs of the compiled one may have internal names.
        names = [one.get_any_name() for one in read.outputs]
        self.model = core.compile_model(read, "CPU", options)
        self.shape = fixed(openvino_shape(self.model.inputs[0]), file)
        self.outputs = dict(zip(names, map(openvino_shape, self.model.outputs), strict=True))
        self.request = self.model.create_infer_request()

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """See :class:`Session`."""
        found = self.request.infer(list(inputs))
        return [np.array(found[output]) for output in self.model.outputs]

    def profile(self, inputs: Sequence[np.ndarray], passes: int) -> dict[str, float]:
        """See :class:`Session`."""
        before = self.totals(inputs, WARM_UP, WARM_UP)
        after = self.totals(inputs, passes, WARM_UP + passes)
        taken: dict[str, float] = {}
        for (kind, first), (_, last) in zip(before, after, strict=True):
            taken[kind] = taken.get(kind, 0.0) + max(0.0, last - first) / passes
        return taken

    def totals(self, inputs: Sequence[np.ndarray], passes: int, done: int) -> list[tuple[str, float]]:
        """Run some passes, and give type and seconds of each operator in all passes so far, whose number is ``done``.

        The engine's own figures are averages over all passes so far.
        """
        for _ in range(passes):
            self.run(*inputs)
        return [(one.node_type, done * one.real_time.total_seconds()) for one in self.request.profiling_info]


def check_engine(engine: str) -> None:
    """Check that an engine can be used.

    Raises:
        ExportError: It is unknown or not installed.
    """
    if engine not in ENGINES:
        raise ExportError(f"engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
    if find_spec(engine) is None:
        raise ExportError(f"{engine} is not installed: pip install 'psaq_mm[deploy]'")


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
    check_engine(engine)
    if not file.is_file():
        raise ExportError(f"there is no exported model at {file}: make it with tools/export.py")
    kind = OnnxRuntimeSession if engine == "onnxruntime" else OpenVINOSession
    try:
        return kind(file, threads, profile)
    except ExportError:
        raise
    except Exception as error:  # the engines raise exceptions of their own and plain RuntimeErrors
        raise ExportError(f"{engine} cannot read {file} ({reason_of(error)}): export it anew") from None


def reason_of(error: Exception) -> str:
    """The first line of an engine's error that says more than the place in its source, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from ")]
    return (telling or lines or [type(error).__name__])[0][:200]


def with_any_batch(shape: Sequence[Any]) -> Shape:
    """The lengths of a shape, None where an engine has a symbol instead of a number."""
    return tuple(length if isinstance(length, int) else None for length in shape)


def openvino_shape(port: Any) -> Shape:
    """The shape of an input or output of OpenVINO."""
    return tuple(length.get_length() if length.is_static else None for length in port.partial_shape)


def fixed(shape: Shape, file: Path) -> InputShape:
    """The shape of an input, which must have four dimensions, of which only the batch may be dynamic.

    Raises:
        ExportError: It has not.
    """
    batch, *rest = shape
    sides = [length for length in rest if length is not None]
    if len(shape) == 4 and len(sides) == 3:
        return batch, sides[0], sides[1], sides[2]
    raise ExportError(f"{file} has no fixed image size ({list(shape)}): make it with tools/export.py")
