"""The converter as it is typed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from tests.models.converters.authors import authors_state


@pytest.fixture
def convert(run_here):
    """Runs ``tools/convert_swin.py`` in this process."""
    return partial(run_here, "convert_swin.py")


@pytest.fixture
def released(tiny_checkpoint, tmp_path):
    """The tiny detector as the authors would have released it, with an optimizer and more beside it."""
    state = authors_state(torch.load(tiny_checkpoint, weights_only=True)["state_dict"])
    meta = {"CLASSES": ("disc", "ring"), "epoch": 36, "mmdet_version": "2.11.0", "seed": np.float64(1.0)}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def test_the_converted_file_holds_the_hosts_weights_and_what_is_plain(convert, released, tiny_checkpoint, tmp_path):
    out = tmp_path / "new" / "converted.pth"
    outcome = convert(released, out)
    assert outcome.code == 0, outcome.err
    expected = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    backbone = sum(key.startswith("backbone.") for key in expected)
    said = f"{backbone} tensors of the backbone renamed and 3 patch mergings reordered, {len(expected) - backbone} "
    assert outcome.out == f"{out}: {said}others kept\n"
    loaded = torch.load(out, weights_only=True)
    assert loaded.keys() == {"meta", "state_dict"}
    assert loaded["meta"] == {"CLASSES": ("disc", "ring"), "epoch": 36, "mmdet_version": "2.11.0"}
    assert loaded["state_dict"].keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded["state_dict"].items())
    assert [path.name for path in out.parent.iterdir()] == ["converted.pth"]


def test_the_quantizer_names_the_tool_and_takes_what_it_made(convert, run_dfq, released, tmp_path):
    options = {"dfq.distill.cycles": 0}
    outcome = run_dfq(options, "--checkpoint", str(released))
    assert outcome.code == 1
    assert f"python tools/convert_swin.py {released} OUT" in outcome.err and outcome.err.count("\n") == 1
    out = tmp_path / "converted.pth"
    assert convert(released, out).code == 0
    outcome = run_dfq(options, "--checkpoint", str(out))
    assert outcome.code == 0, outcome.err
    quantized = torch.load(tmp_path / "work" / "quantized.pth", weights_only=True)
    assert quantized["meta"]["CLASSES"] == ("disc", "ring")


def test_a_recipe_without_its_file_says_how_to_make_it(run_dfq, tmp_path):
    url = "https://example.org/released.pth"
    options = {"checkpoint_url": url, "checkpoint_converter": "tools/convert_swin.py"}
    outcome = run_dfq(options, "--checkpoint", str(tmp_path / "a.pth"))
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    source = tmp_path / "released.pth"
    command = f"curl -L --create-dirs -o {source} {url} && python tools/convert_swin.py {source} {tmp_path / 'a.pth'}"
    assert command in outcome.err


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        (
            "missing",
            1,
            "there is no checkpoint at {0}/none.pth: give the path of a file that the Swin authors released",
        ),
        ("other", 1, "the checkpoint {0}/other.pth has not the Swin authors' names"),
        ("converted", 1, "has the names of mmdet and mmseg already: use it as it is"),
        ("below-a-file", 2, "cannot write {0}/released.pth/out.pth (File exists): give another path"),
        ("folder", 2, "cannot write {0}: it is a folder; give the path of a file"),
        ("itself", 2, "OUT is IN, {0}/released.pth: give another OUT"),
    ],
)
def test_what_cannot_be_is_one_line(convert, released, tiny_checkpoint, tmp_path, kind, code, said):
    torch.save({"state_dict": {"x": torch.ones(1)}}, tmp_path / "other.pth")
    before = released.read_bytes()
    source = {"missing": tmp_path / "none.pth", "other": tmp_path / "other.pth", "converted": tiny_checkpoint}
    target = {"below-a-file": released / "out.pth", "folder": tmp_path, "itself": released}
    outcome = convert(source.get(kind, released), target.get(kind, tmp_path / "out.pth"))
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert said.format(tmp_path) in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth", "released.pth"]
    assert released.read_bytes() == before
