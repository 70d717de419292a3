"""What mmengine's training writes loads safely; what looks like it and isn't stays out."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer

from psaq_mm.errors import PSAQError
from psaq_mm.models.checkpoint import read_checkpoint


def history():
    buffer = HistoryBuffer()
    buffer.update(1.5)
    return buffer


def test_a_checkpoint_with_training_history_loads(tmp_path):
    state = {"weight": torch.ones(2)}
    meta = {"dataset_meta": {"classes": ("nucleus",)}}
    log = {"log_scalars": {"train/loss": history()}}
    torch.save({"state_dict": state, "meta": meta, "message_hub": log}, tmp_path / "iter_1.pth")
    loaded = read_checkpoint(tmp_path / "iter_1.pth")
    assert torch.equal(loaded["state_dict"]["weight"], state["weight"])
    assert loaded["meta"] == meta


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "planted",
    [
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, dict, "fromkeys"),
        Call(os.system, "true"),
        Call(HistoryBuffer.register_statistics, len),
    ],
    ids=["private-attribute", "other-class", "system", "method-called"],
)
def test_other_objects_are_refused(planted, tmp_path):
    torch.save({"state_dict": {}, "message_hub": planted}, tmp_path / "planted.pth")
    with pytest.raises(PSAQError, match="refuses to load safely"):
        read_checkpoint(tmp_path / "planted.pth")


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"state_dict": {}}, protocol=4))
    with pytest.raises(PSAQError, match="refuses to load safely"):
        read_checkpoint(tmp_path / "plain.pth")


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"hello world", bytes(range(200))], ids=["empty", "web-page", "text", "bytes"]
)
def test_what_is_no_checkpoint_is_never_called_a_trusted_one(content, tmp_path):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(PSAQError, match="no checkpoint at all"):
        read_checkpoint(tmp_path / "broken.pth")
