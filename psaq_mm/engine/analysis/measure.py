"""The measurement of an analysis, for recipes and for models in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ...analysis.gradients import gradient_scores
from ...analysis.operations import operations
from ...analysis.probe import Probe, ProbedTensor, probed_tensors
from ...analysis.sensitivity import Forward, Reference, sensitivities
from ...models import backbone_outputs
from .table import SensitivityTable, kind_of

STAGE = "analyze"


def measure(
    table: SensitivityTable,
    networks: Iterable[nn.Module],
    calibrate: Callable[[nn.Module], object],
    batches: Sequence[Tensor],
    forwards: Sequence[Forward],
    classes: bool,
    tensors: str = "all",
    scores: Sequence[str] = (),
) -> Iterator[tuple[int, int]]:
    """Calibrate one network after the other, and add a row for each missing tensor to the table.

    Args:
        table: Receives the rows, and the operations of each layer.
        networks: The quantized network of each width, not calibrated. An iterator builds each when its turn comes.
        calibrate: Calibrates a network.
        batches: Images.
        forwards: Computes features and logits, one function for each batch.
        classes: Whether the logits are class scores (:class:`psaq_mm.analysis.sensitivity.Reference`).
        tensors: ``'all'``, ``'weights'`` or ``'activations'``.
        scores: Names of further scores, from gradients of the features.

    Yields:
        After each row: how many of its network are measured, and how many were missing.
    """

    def rows_of(network: nn.Module) -> Iterator[tuple[int, int]]:
        missing = missing_tensors(table, network, tensors)
        if not missing:
            return
        probe = Probe(network, lambda: calibrate(network))
        reference = Reference(network, batches, forwards, classes)
        table.logits = ("divergence" if classes else "error") if reference.outputs[0][1] else ""
        if not table.operations:
            image = batches[0][:1].to(next(network.parameters()).device)
            table.operations = operations(network, lambda model: forwards[0](model, image))
        start = time.perf_counter()
        further = gradient_scores(probe, batches, backbone_outputs, scores) if scores else {}
        share = (time.perf_counter() - start) / len(missing) if scores else None
        for step, row in enumerate(sensitivities(probe, reference, missing), 1):
            table.rows.append(replace(row, scores=further.get(row.key, {}), scores_seconds=share))
            yield step, len(missing)

    for network in networks:
        # A function, so that the copies of weights in the probe are gone before the next network is built.
        yield from rows_of(network)


def missing_tensors(table: SensitivityTable, network: nn.Module, tensors: str = "all") -> list[ProbedTensor]:
    """The tensors of a network that have no row at their bits yet.

    Args:
        table: The rows so far.
        network: A quantized network.
        tensors: ``'all'``, ``'weights'`` or ``'activations'``.
    """
    have = {(*row.key, row.bits) for row in table.rows}
    wanted = [one for one in probed_tensors(network) if tensors in ("all", kind_of(one.tensor))]
    return [one for one in wanted if (*one.key, one.bits) not in have]
