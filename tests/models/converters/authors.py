"""Checkpoints as the Swin authors' code would have written them: the inverse of what is tested, on its own feet."""

from __future__ import annotations

from torch import Tensor

# In each pair mmdet's and mmseg's part of a name, and the authors'.
NAMES = [
    ("backbone.stages.", "backbone.layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
    ("backbone.patch_embed.projection.", "backbone.patch_embed.proj."),
]


def authors_order(values: Tensor) -> Tensor:
    """From ``nn.Unfold``'s order of a patch merging's inputs (the last axis) to the authors'."""
    # (…, channel, row, column) -> (…, column, row, channel): the authors stack x[0::2, 0::2], x[1::2, 0::2], …
    by_place = values.unflatten(-1, (-1, 2, 2))
    return by_place.movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3)


def authors_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detector's or segmentor's state dict in the authors' names and order."""
    old = {}
    for key, value in state.items():
        if key.startswith("backbone."):
            for new, authors in NAMES:
                key = key.replace(new, authors)
            if ".downsample." in key:
                value = authors_order(value)
        old[key] = value
    return old
