"""Scores from gradients: against a network whose Jacobian is known, and against measured distances."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from psaq_mm.analysis.gradients import gradient_scores
from psaq_mm.analysis.probe import Probe, probed_tensors
from psaq_mm.analysis.scores import SCORES
from psaq_mm.analysis.sensitivity import Reference, sensitivities
from psaq_mm.errors import UsageError
from psaq_mm.quantization import QuantPolicy, calibrating, quantize_model

NAMES = ("hessian_trace", "gauss_newton")


def probe_of(net: nn.Module, images: torch.Tensor, bits: int = 4) -> Probe:
    quantized = quantize_model(copy.deepcopy(net), QuantPolicy(weight_bits=bits, activation_bits=bits))

    def calibrate() -> None:
        with calibrating(quantized), torch.no_grad():
            quantized(images)

    return Probe(quantized, calibrate)


def outputs(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    return [net(images)]


@pytest.mark.parametrize(
    ("name", "expected"), [("hessian_trace", 5.0), ("gauss_newton", 9.0)], ids=["hessian_trace", "gauss_newton"]
)
def test_the_examples_of_the_docstrings(name, expected):
    assert float(SCORES.get(name).value(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]))) == expected


def test_the_registered_scores():
    assert SCORES.names == ("gauss_newton", "hessian_trace")


def test_an_unknown_score_is_refused():
    with pytest.raises(UsageError, match="score 'fisher' is unknown: use one of gauss_newton, hessian_trace"):
        gradient_scores(probe_of(nn.Linear(3, 2), torch.randn(4, 3)), [torch.randn(4, 3)], outputs, ["fisher"])


def test_in_a_linear_network_the_first_order_is_the_measured_error():
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    probe = probe_of(nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 4, bias=False)), images)
    found = gradient_scores(probe, [images], outputs, NAMES, vectors=2000)
    reference = Reference(probe.network, [images], [lambda net, x: ([net(x)], [])], classes=False)
    for row in sensitivities(probe, reference, probed_tensors(probe.network)):
        # 2000 vectors: a relative standard deviation of at most sqrt(2 / 2000) = 0.03, so five of them
        assert found[row.key]["gauss_newton"] == pytest.approx(row.features, rel=0.16)


def test_the_trace_is_that_of_the_jacobian():
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4, bias=False))
    probe = probe_of(net, images)
    found = gradient_scores(probe, [images], outputs, NAMES, vectors=4000)[("0", "weight")]["hessian_trace"]
    # y = x W^T: each of the 4 rows of W has the Jacobian x, so tr(J^T J) = 4 |x|^2
    trace = 4 * images.square().sum() / net(images).square().sum()
    error = probe.weight_error("0").square().sum()
    assert found == pytest.approx(float(trace / 20 * error), rel=0.16)


class Residual(nn.Module):
    """Two layers that read the same tensor, which is also added to their sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight.data *= 1e-3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1.0
        return x + self.first(x) + self.second(x)


def test_a_layer_answers_for_its_own_use_of_a_shared_tensor():
    images = torch.randn(32, 8, generator=torch.Generator().manual_seed(2))
    found = gradient_scores(probe_of(Residual(), images), [images], outputs, NAMES, vectors=200)
    for name in NAMES:
        # the second weight is 1000 times smaller, errors of both inputs are equal
        ratio = found[("first", "input")][name] / found[("second", "input")][name]
        assert 1e5 < ratio < 1e7


def test_the_first_order_ranks_tensors_as_measured_distances_do():
    images = torch.randn(64, 16, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    net = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(16, 16), nn.GELU())), nn.Linear(16, 4))
    for index, scale in enumerate((1.0, 3.0, 0.5, 2.0, 1.0)):
        net[2 * index].weight.data[0] *= 10 * scale  # ranges differ
    probe = probe_of(net, images, bits=6)
    batches = list(images.split(32))
    found = gradient_scores(probe, batches, outputs, NAMES, vectors=64)
    reference = Reference(probe.network, batches, [lambda net, x: ([net(x)], [])] * 2, classes=False)
    rows = list(sensitivities(probe, reference, probed_tensors(probe.network)))
    firsts = [found[row.key]["gauss_newton"] for row in rows]
    # not the trace, which ignores the direction of errors: few channels have most of this network's values
    assert spearmanr([row.features for row in rows], firsts).statistic > 0.9


def test_the_network_is_left_as_it_was():
    images = torch.randn(6, 5)
    probe = probe_of(nn.Sequential(nn.Linear(5, 4)), images)
    probe.network.requires_grad_(False)
    before = probe.network(images)
    first = gradient_scores(probe, [images], outputs, NAMES, vectors=2, seed=3)
    assert gradient_scores(probe, [images], outputs, NAMES, vectors=2, seed=3) == first
    assert torch.equal(probe.network(images), before)
    assert not any(p.requires_grad or p.grad is not None for p in probe.network.parameters())
    assert not any(one._forward_hooks or one.enabled for one in probe.quantizers.values())


def test_a_layer_behind_the_outputs_has_the_score_zero():
    images = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    probe = probe_of(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4)), images)
    found = gradient_scores(probe, [images], lambda net, x: [net[0](x)], NAMES)
    assert found.keys() == probe.quantizers.keys()
    assert found["1", "weight"] == dict.fromkeys(NAMES, 0.0) and all(found["0", "weight"].values())
