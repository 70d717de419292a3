from __future__ import annotations

import pytest
import torch

from psaq_mm.generation import AttentionTokens, GenerationError
from psaq_mm.generation.tokens import pair_mask


def positions(layer: AttentionTokens) -> list[int]:
    """Where the pairs stand in the flattened ``(groups, N, N)`` mask."""
    groups, count = layer.tokens.shape[1:3]
    mask = pair_mask(count, layer.regions, layer.tokens.device).expand(groups, -1, -1)
    return mask.flatten().nonzero().squeeze(1).tolist()


def test_pairs_are_those_of_one_region_each_once() -> None:
    layer = AttentionTokens(torch.zeros(2, 2, 4, 3), torch.tensor([[0, 0, 1, -1], [-1, 5, 5, 5]]))
    # Window 0: (0, 1). Window 1, offset 16: (1, 2), (1, 3), (2, 3).
    assert positions(layer) == [1, 16 + 6, 16 + 7, 16 + 11]
    assert layer.pair_count() == 4


def test_without_regions_all_pairs_within_the_group_count() -> None:
    layer = AttentionTokens(torch.zeros(1, 2, 3, 3))
    assert positions(layer) == [1, 2, 5, 10, 11, 14]
    assert layer.pair_count() == 6


def test_padding_does_not_pair_with_padding() -> None:
    layer = AttentionTokens(torch.zeros(1, 1, 3, 3), torch.full((1, 3), -1))
    assert layer.pair_count() == 0
    assert positions(layer) == []


@pytest.mark.parametrize("has_class_token", [False, True], ids=["patches", "class-token"])
def test_class_token_is_dropped_with_its_region(has_class_token: bool) -> None:
    layer = AttentionTokens(torch.zeros(1, 1, 4, 3), torch.tensor([[0, 1, 2, 2]]), "a", has_class_token)
    patches = layer.patches()
    assert patches.tokens.shape[2] == (3 if has_class_token else 4)
    assert patches.regions is not None and patches.regions.tolist()[0][-2:] == [2, 2]
    assert patches.patches() is patches


@pytest.mark.parametrize(
    ("tokens", "regions"),
    [
        (torch.zeros(1, 4, 3), None),
        (torch.zeros(1, 1, 4, 3, dtype=torch.int64), None),
        (torch.zeros(1, 1, 4, 3), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(1, 1, 4, 3), torch.zeros(1, 4)),
    ],
    ids=["three-dims", "integers", "regions-shape", "regions-type"],
)
def test_wrong_shapes_and_types_name_the_layer(tokens: torch.Tensor, regions: torch.Tensor | None) -> None:
    with pytest.raises(GenerationError, match="'stage 1'.*pass"):
        AttentionTokens(tokens, regions, "stage 1")
