"""Calibration in two processes, each on half of the batches: ranges are those of all batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from psaq_mm.quantization import QuantizationError, QuantLinear, QuantSpec, calibrating, quantizers, weight_spec

BATCHES = 4


def model_of(estimator: str, granularity: str) -> nn.Module:
    torch.manual_seed(0)
    spec = QuantSpec(8, granularity=granularity, axis=-1, range=estimator)
    return nn.Sequential(
        QuantLinear.from_module(nn.Linear(6, 5), weight_spec(8), spec, name="first"),
        QuantLinear.from_module(nn.Linear(5, 3), weight_spec(8), spec, name="second"),
    )


def batches() -> Tensor:
    return torch.randn(BATCHES, 50, 6, generator=torch.Generator().manual_seed(1)) * torch.arange(1, BATCHES + 1).view(
        -1, 1, 1
    )


def ranges(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, quantizer in quantizers(model):
        found[name] = torch.stack([quantizer.range_min, quantizer.range_max])
    return found


def calibrate(model: nn.Module, own: Tensor, across_processes: bool) -> dict[str, Tensor]:
    with calibrating(model, across_processes), torch.no_grad():
        for batch in own:
            model(batch)
    return ranges(model)


CASES = [("minmax", "per_tensor"), ("minmax", "per_channel"), ("percentile", "per_tensor"), ("mse", "per_tensor")]


def half(rank: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    # one batch to the first and three to the second
    own = batches()[:1] if rank == 0 else batches()[1:]
    found = {" ".join(case): calibrate(model_of(*case), own, True) for case in CASES}
    torch.save(found, f"{folder}/{rank}.pth")
    try:
        calibrate(model_of("ema", "per_tensor"), own, True)
    except QuantizationError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(half, (str(path),), nprocs=2)
    return path


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_processes_find_the_ranges_of_one(folder, case, rank):
    """To 1e-6: means over batches are summed in another order."""
    expected = calibrate(model_of(*case), batches(), False)
    found = torch.load(folder / f"{rank}.pth", weights_only=True)[" ".join(case)]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def test_an_estimator_that_follows_the_order_of_batches_is_refused_by_name(folder):
    for rank in range(2):
        assert "range estimator 'ema' depends on the order of the batches" in (folder / f"{rank}.txt").read_text()
