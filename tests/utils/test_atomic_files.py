"""Files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.utils.atomic_files import replacing, save_json, save_tensors, save_with, writable_file, writable_folder
from tests.conftest import little_room


def broken(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def test_a_stopped_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    save_json({"a": 1}, path)
    with pytest.raises(KeyboardInterrupt), replacing(path) as scratch:
        broken(scratch)
    with pytest.raises(KeyboardInterrupt):
        save_with(broken, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json({"a": float("nan")}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_replace_what_was_there(tmp_path):
    for value in (1, 2):
        save_tensors({"x": torch.tensor(value)}, tmp_path / "a.pth")
    assert int(torch.load(tmp_path / "a.pth", weights_only=True)["x"]) == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_tensors({"x": torch.ones(10_000)}, path),
        lambda path: save_json(list(range(10_000)), path),
        lambda path: save_with(lambda scratch: scratch.write_bytes(b"x" * 40_000), path),
    ],
    ids=["tensors", "json", "with"],
)
def test_where_there_is_no_room_the_old_file_stays(tmp_path, save):
    path = tmp_path / "a.file"
    path.write_text("old")
    with (
        little_room(10_000),
        pytest.raises(PSAQError, match="cannot write .*a.file .File too large.: make room for it"),
    ):
        save(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_writers_see_the_suffix(tmp_path):
    seen = []
    save_with(lambda path: (seen.append(path.suffix), path.touch()), tmp_path / "a.png")
    assert seen == [".png"]


def test_a_folder_is_made_and_proved(tmp_path):
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write to the work dir .*choose another with --work-dir"):
        writable_folder(tmp_path / "file" / "below")


def test_a_file_is_proved_without_being_made(tmp_path):
    path = writable_file(tmp_path / "a" / "b.pth")
    assert path.parent.is_dir() and not list(path.parent.iterdir())


def test_a_file_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write .*b.pth .*: give another path"):
        writable_file(tmp_path / "file" / "b.pth")
    with pytest.raises(UsageError, match="it is a folder; give the path of a file"):
        writable_file(tmp_path)
