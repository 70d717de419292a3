"""Calibration in two processes, each on some of the batches: ranges and Hessians are those of all batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from psaq_mm.quantization import GPTQRounding, QuantLinear, QuantSpec, calibrating, quantizers, weight_spec

BATCHES = 4


def model_of(observer: str, granularity: str) -> nn.Module:
    torch.manual_seed(0)
    spec = QuantSpec(8, granularity=granularity, axis=-1, observer=observer)
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


def gptq_on(own: Tensor) -> tuple[nn.Module, GPTQRounding]:
    """A calibrated model and the Hessians of its own batches; the second layer runs for more than one batch only."""
    model, rounding = model_of("minmax", "per_tensor"), GPTQRounding()
    calibrate(model, batches(), False)
    with rounding.collect(model), torch.no_grad():
        for batch in own:
            y = model[0](batch)
            if len(own) > 1:
                model[1](y)
    return model, rounding


CASES = [("minmax", "per_tensor"), ("minmax", "per_channel"), ("percentile", "per_tensor"), ("mse", "per_tensor")]


def half(rank: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    # one batch to the first and three to the second
    own = batches()[:1] if rank == 0 else batches()[1:]
    found = {" ".join(case): calibrate(model_of(*case), own, True) for case in CASES}
    torch.save(found, f"{folder}/{rank}.pth")
    model, rounding = gptq_on(own)
    rounding.all_reduce(distributed.all_reduce)
    torch.save([rounding.hessians[layer] for layer in model], f"{folder}/{rank}_hessians.pth")
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


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_sum_their_hessians(folder: Path, rank: int) -> None:
    """To 1e-6: float32 products of other batches are scaled by other powers of two."""
    model, rounding = gptq_on(batches())
    found = torch.load(folder / f"{rank}_hessians.pth", weights_only=True)
    # The second layer ran in one process only, and its inputs are those of that process.
    torch.testing.assert_close(found[0], rounding.hessians[model[0]], rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1], torch.load(folder / f"{1 - rank}_hessians.pth", weights_only=True)[1])
    assert bool(found[1].any())
