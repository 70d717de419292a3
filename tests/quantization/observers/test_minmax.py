"""The observer 'minmax'."""

from __future__ import annotations

import torch

from psaq_mm.quantization import activation_spec
from tests.quantization.observers.observing import observe


def test_minmax_keeps_the_extremes_of_all_batches() -> None:
    low, high = observe(activation_spec(8), torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    assert (low.tolist(), high.tolist()) == ([-3.0], [2.0])
