"""Images on disk: whole, found again, and deleted once no state needs them."""

from __future__ import annotations

import hashlib

import pytest
import torch

from psaq_mm.errors import PSAQError
from psaq_mm.utils import atomic_files as files
from psaq_mm.utils.image_store import DiskImageStore
from tests.conftest import little_room


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed))


def test_what_is_kept_opens_again_under_the_hash_of_its_bytes(tmp_path):
    store, kept = DiskImageStore(tmp_path / "pool"), image()
    name = store.keep(kept)
    assert name == hashlib.sha256(kept.numpy().tobytes()).hexdigest()
    assert torch.equal(store.open(name), kept)
    assert [path.name for path in (tmp_path / "pool").iterdir()] == [f"{name}.pth"]


def test_a_view_of_a_batch_takes_its_own_bytes_only(tmp_path):
    store, batch = DiskImageStore(tmp_path), torch.randn(64, 3, 8, 8)
    strided = batch.to(memory_format=torch.channels_last)
    assert store.keep(batch[3]) == store.keep(strided[3])
    assert store.path(store.keep(batch[3])).stat().st_size < 4 * batch[3].nbytes


def test_an_image_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    store = DiskImageStore(tmp_path)
    name = store.keep(image())
    monkeypatch.setattr(files, "write_tensors", lambda *_: pytest.fail("written again"))
    assert store.keep(image()) == name


def test_an_opened_image_outlasts_its_file(tmp_path):
    store = DiskImageStore(tmp_path)
    opened = store.open(store.keep(image()))
    store.retain(set())
    assert not list(tmp_path.iterdir()) and torch.equal(opened, image())


def test_the_images_of_the_last_two_states_stay(tmp_path):
    store = DiskImageStore(tmp_path)
    a, b = (store.keep(image(seed)) for seed in range(2))
    store.retain({a, b})
    c = store.keep(image(2))
    for names, left in (({b, c}, {a, b, c}), ({c}, {b, c}), ({c}, {c})):
        store.retain(names)
        assert {path.stem for path in tmp_path.iterdir()} == left


def test_where_there_is_no_room_it_is_one_line_and_nothing_is_left(tmp_path):
    with little_room(1000), pytest.raises(PSAQError, match="cannot write .*File too large.*: make room for it"):
        DiskImageStore(tmp_path).keep(torch.zeros(3, 64, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "other", "no-archive", "missing"])
def test_damage_is_found_and_written_anew(tmp_path, damage):
    store = DiskImageStore(tmp_path)
    name = store.keep(image())
    path = store.path(name)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "other":
        torch.save(image(1), path)
    elif damage == "no-archive":
        path.write_bytes(b"nothing")
    else:
        path.unlink()
    with pytest.raises(OSError, match=name):
        store.check([name])
    assert not path.exists()
    assert store.keep(image()) == name
    store.check([name])


def test_all_that_is_damaged_is_deleted_at_once(tmp_path):
    store = DiskImageStore(tmp_path)
    names = [store.keep(image(seed)) for seed in range(3)]
    for name in names[:2]:
        store.path(name).write_bytes(b"nothing")
    with pytest.raises(OSError, match=names[0]):
        store.check(names)
    assert {path.stem for path in tmp_path.iterdir()} == {names[2]}


def test_a_flipped_bit_is_found_or_harmless(tmp_path):
    """Whatever torch makes of the file: many kinds of error, or other values."""
    store = DiskImageStore(tmp_path)
    name = store.keep(image())
    whole, found = store.path(name).read_bytes(), 0
    for position in range(0, len(whole), 17):
        broken = bytearray(whole)
        broken[position] ^= 1
        store.path(name).write_bytes(broken)
        if store.is_whole(name):
            assert torch.equal(store.open(name), image())
        else:
            found += 1
    # A quarter of the file is the image; the rest is structure, of which not every byte counts.
    assert found > len(whole) / 17 / 4


def test_what_others_put_there_stays(tmp_path):
    store = DiskImageStore(tmp_path)
    (tmp_path / "my_model.pth").touch()
    name = store.keep(image())
    scratch = tmp_path / f".123.{name}.pth"
    scratch.touch()
    store.retain(set())
    assert [path.name for path in tmp_path.iterdir()] == ["my_model.pth"]


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "pool").touch()
    with pytest.raises(PSAQError, match="cannot write to the work dir"):
        DiskImageStore(tmp_path / "pool").keep(image())


def test_files_are_mapped_by_a_string(tmp_path, monkeypatch):
    """Older versions of torch map nothing else."""
    store, load, given = DiskImageStore(tmp_path), torch.load, []
    monkeypatch.setattr(torch, "load", lambda file, **kwargs: (given.append((file, kwargs)), load(file, **kwargs))[1])
    store.open(store.keep(image()))
    assert isinstance(given[0][0], str) and given[0][1] == {"mmap": True, "weights_only": True}
