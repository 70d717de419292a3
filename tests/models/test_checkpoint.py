"""Checkpoints load safely and completely or not at all, and the quantized one is an ordinary one."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from psaq_mm.errors import PSAQError
from psaq_mm.models import artifact_model, calibration_function
from psaq_mm.models.checkpoint import artifact_config, how_to_get, load_weights, read_checkpoint, save_artifact
from psaq_mm.quantization import calibrating, freeze
from tests.conftest import random_weights


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmdet")


def test_a_bare_state_dict_is_wrapped(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    torch.save(state, tmp_path / "bare.pth")
    loaded = read_checkpoint(tmp_path / "bare.pth")
    assert loaded["meta"] == {} and loaded["state_dict"].keys() == state.keys()


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_usual_wrappings_are_opened(tmp_path, key):
    torch.save({key: nn.Linear(2, 3).state_dict(), "meta": {"CLASSES": ("a",)}}, tmp_path / "one.pth")
    loaded = read_checkpoint(tmp_path / "one.pth")
    assert set(loaded["state_dict"]) == {"weight", "bias"}
    assert loaded["meta"] == ({"CLASSES": ("a",)} if key == "state_dict" else {})


def test_what_mmengine_writes_beside_the_weights_is_allowed(tmp_path):
    history = HistoryBuffer()
    history.update(0.5)
    state = {"state_dict": nn.Linear(2, 3).state_dict(), "message_hub": {"log_scalars": {"loss": history}}}
    torch.save({**state, "meta": {"seed": np.float64(1.0)}}, tmp_path / "trained.pth")
    assert set(read_checkpoint(tmp_path / "trained.pth")["state_dict"]) == {"weight", "bias"}


URL = "https://example.org/a.pth"
TOOL = "tools/convert.py"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"url": URL}, "fetch it with: curl -L --create-dirs -o x/b.pth https://example.org/a.pth"),
        (
            {"url": URL, "converter": TOOL},
            "fetch and convert it with: curl -L --create-dirs -o x/a.pth https://example.org/a.pth && "
            "python tools/convert.py x/a.pth x/b.pth",
        ),
        (
            {"url": "https://example.org/b.pth", "converter": TOOL},
            "fetch it with: curl -L --create-dirs -o x/b.pth https://example.org/b.pth",
        ),
        (
            {"training": "train.py"},
            "there is no public one of this model, train it with: python tools/train.py train.py --work-dir x, "
            "or give another with --checkpoint",
        ),
        ({"converter": TOOL}, "give its path with --checkpoint"),
    ],
    ids=["address-known", "to-be-converted", "the-unconverted-asked-for", "to-be-trained", "address-unknown"],
)
def test_how_to_get_a_checkpoint(recipe, said):
    recipe = {f"checkpoint_{key}": value for key, value in recipe.items()}
    assert how_to_get(Path("x/b.pth"), recipe) == said


def test_a_missing_file_says_how_to_get_it(tmp_path):
    path = tmp_path / "none.pth"
    for arguments, said in (((), "give its path with --checkpoint"), (("fetch it",), "fetch it")):
        with pytest.raises(PSAQError) as error:
            read_checkpoint(path, *arguments)
        assert str(error.value) == f"there is no checkpoint at {path}: {said}"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99], ids=str)
def test_a_truncated_file(tiny_checkpoint, tmp_path, share):
    whole = tiny_checkpoint.read_bytes()
    (tmp_path / "part.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PSAQError, match="part.pth is truncated or no checkpoint at all: fetch it again"):
        read_checkpoint(tmp_path / "part.pth")


@pytest.mark.parametrize(
    "content",
    [b"<html><body>404 not found</body></html>", b"version https://git-lfs", random.Random(0).randbytes(5000)],
    ids=["web-page", "lfs-pointer", "noise"],
)
def test_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(PSAQError, match="other.pth is truncated or no checkpoint at all: fetch it again"):
        read_checkpoint(tmp_path / "other.pth")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_pickled_objects_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": nn.Linear(2, 3).state_dict(), "more": Payload()}, "bad.pth")
    with pytest.raises(PSAQError, match="holds pickled .*mkdir.*refuses to load safely.*torch.load") as error:
        read_checkpoint("bad.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_a_tensor_alone_is_no_checkpoint(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(PSAQError, match="holds a Tensor, not a state dict"):
        read_checkpoint(tmp_path / "tensor.pth")


def changed(state: dict, **changes) -> dict:
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"0.weight": None}, "it lacks 0.weight;"),
        ({"extra": torch.ones(1)}, "it has unexpected extra;"),
        ({"0.weight": torch.ones(9, 2)}, r"it has other shapes: 0.weight \(9, 2\) instead of \(3, 2\);"),
        (dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias")), "it lacks 0.bias, 0.weight, 1.bias and 1 more;"),
    ],
    ids=["missing", "unexpected", "shape", "many"],
)
def test_another_architecture_lists_the_first_keys(changes, said):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PSAQError, match=f"the checkpoint a.pth is of another architecture: {said} give the checkpoint"):
        load_weights(model, changed(model.state_dict(), **changes), "a.pth")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_swin_authors_names_lead_to_the_converter(tiny_recipe):
    names = {"stages.": "layers.", "attn.w_msa.": "attn."}
    model = build(tiny_recipe, None)
    old = {}
    for key, value in model.state_dict().items():
        for new, authors in names.items():
            key = key.replace(new, authors) if key.startswith("backbone.") else key
        old[key] = value
    said = "the checkpoint a.pth has the Swin authors' names .*: convert it with python tools/convert_swin.py a.pth OUT"
    with pytest.raises(PSAQError, match=said) as error:
        load_weights(model, old, "a.pth")
    assert "\n" not in str(error.value)


def test_a_distributed_checkpoint_loads():
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    load_weights(model, {f"module.{key}": value for key, value in other.state_dict().items()}, "a.pth")
    assert torch.equal(model.weight, other.weight)


def build(cfg: Config, quantization: dict | None) -> nn.Module:
    model = cfg.model if quantization is None else artifact_model(cfg.model, quantization)
    return random_weights(MODELS.build(copy.deepcopy(model)))


def calibrated(cfg: Config, quantization: dict) -> nn.Module:
    model, teacher = build(cfg, quantization), build(cfg, None)
    forward = calibration_function(quantization.get("scope", "backbone"), teacher)
    with torch.no_grad(), calibrating(model):
        forward(model, torch.randn(2, 3, 64, 64))
    freeze(model)
    return model


@pytest.mark.parametrize(
    ("imports", "expected"),
    [(None, ["psaq_mm"]), ("mine", ["mine", "psaq_mm"]), (["psaq_mm", "mine"], ["psaq_mm", "mine"])],
    ids=["none", "one", "several"],
)
def test_an_artifact_imports_what_its_recipe_did(tiny_recipe, imports, expected):
    cfg = copy.deepcopy(tiny_recipe)
    cfg.custom_imports = imports and {"imports": imports, "allow_failed_imports": True}
    described = artifact_config(cfg, artifact_model(cfg.model, {}).to_dict())
    assert described.custom_imports == {"imports": expected, "allow_failed_imports": False}


@pytest.mark.parametrize("scope", ["backbone", "model"])
@pytest.mark.parametrize("scheme", ["deploy", "paper"])
@torch.no_grad()
def test_an_artifact_comes_back_to_the_bit(tiny_recipe, tmp_path, scope, scheme):
    quantization = {"weight_bits": 4, "activation_bits": 6, "scope": scope, "scheme": scheme}
    model = calibrated(tiny_recipe, quantization)
    described = artifact_config(tiny_recipe, artifact_model(tiny_recipe.model, quantization).to_dict())
    config, checkpoint = save_artifact(tmp_path, described, model, {"psaq_mm": quantization})
    cfg = Config.fromfile(config)
    assert not {"dfq", "runner_type", "train_dataloader", "optim_wrapper", "load_from", "work_dir"} & set(cfg)
    again = MODELS.build(cfg.model)
    again.eval()
    loaded = read_checkpoint(checkpoint)
    load_weights(again, loaded["state_dict"], "it")
    assert loaded["meta"]["psaq_mm"] == quantization
    images = torch.randn(2, 3, 72, 88)
    outputs = [calibration_function("model", model)(one, images) for one in (model, again)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quantized.pth", "quantized.py"]


@pytest.mark.parametrize(
    ("saved", "asked", "said"),
    [
        ({"weight_bits": 4}, {}, "does not fit: .*the checkpoint has 4 bits .*the model 8 bits"),
        ({}, {"activation_bits": 6}, "does not fit: .*the checkpoint has 8 bits .*the model 6 bits"),
        ({}, {"scheme": "paper"}, "of another architecture, or quantized otherwise: it lacks "),
        ({}, None, "is a quantized model's, the config a float one's: give a float checkpoint, or the quantized.py"),
        (None, {}, "is a float model's, the config a quantized one's: quantize it with tools/dfq.py"),
    ],
    ids=["weight-bits", "activation-bits", "scheme", "quantized-into-float", "float-into-quantized"],
)
def test_other_quantization_is_refused(tiny_recipe, saved, asked, said):
    state = (build(tiny_recipe, None) if saved is None else calibrated(tiny_recipe, saved)).state_dict()
    with pytest.raises(PSAQError, match=said) as error:
        load_weights(build(tiny_recipe, asked), state, "a.pth")
    assert "\n" not in str(error.value)


def classifier(num_classes: int = 5) -> nn.Module:
    """A Swin of mmpretrain's."""
    init_default_scope("mmpretrain")
    arch = {"embed_dims": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
    backbone = {"type": "SwinTransformer", "arch": arch, "img_size": 64, "pad_small_map": True}
    head = {"type": "LinearClsHead", "num_classes": num_classes, "in_channels": 128}
    model = {"type": "ImageClassifier", "backbone": backbone, "neck": {"type": "GlobalAveragePooling"}, "head": head}
    return random_weights(MODELS.build(model))


def test_names_of_older_versions_load_as_the_host_renames_them():
    model, other = classifier(), classifier()
    state = {key.replace("backbone.norm3.", "backbone.norm."): value for key, value in model.state_dict().items()}
    assert "backbone.norm.weight" in state
    state["backbone.stages.0.blocks.0.attn.attn_mask"] = torch.zeros(4, 49, 49)
    for parameter in other.parameters():
        parameter.data.zero_()
    load_weights(other, state, "old.pth")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(PSAQError, match="of another architecture: it has unexpected other.weight"):
        load_weights(other, {**model.state_dict(), "other.weight": torch.ones(1)}, "other.pth")


def test_another_number_of_classes_is_no_other_architecture():
    said = "was trained for 7 classes, the config's model has 5: set num_classes to 7, or give the checkpoint"
    with pytest.raises(PSAQError, match=said):
        load_weights(classifier(), classifier(7).state_dict(), "seven.pth")


SWIN_V2 = {
    "type": "mmpretrain.SwinTransformerV2",
    "arch": {"embed_dims": 16, "depths": [1, 1], "num_heads": [1, 1], "extra_norm_every_n_blocks": 0},
    "img_size": 32,
    "window_size": 2,
    "out_indices": (0, 1),
}


def test_tables_that_a_host_computes_anew_may_be_absent():
    """mmpretrain's SwinV2 drops its constant tables from what it loads, so that a strict load always fails."""
    model, other = (random_weights(MODELS.build(copy.deepcopy(SWIN_V2)), seed) for seed in (0, 1))
    whole = other.state_dict()
    tables = {key for key in whole if key.endswith(("relative_coords_table", "relative_position_index"))}
    assert len(tables) == 4
    for state in (whole, {key: value for key, value in whole.items() if key not in tables}):
        model = random_weights(MODELS.build(copy.deepcopy(SWIN_V2)))
        load_weights(model, state, "swin.pth")
        assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())
    with pytest.raises(PSAQError, match="lacks stages.0.blocks.0.attn.w_msa.q_bias"):
        load_weights(model, {key: value for key, value in whole.items() if not key.endswith("q_bias")}, "swin.pth")


def test_a_quantized_model_loads_the_tables_of_its_checkpoint():
    config = artifact_model(ConfigDict(type="Anything", backbone=copy.deepcopy(SWIN_V2)), {}).backbone
    student = MODELS.build(copy.deepcopy(config))
    random_weights(student)
    with torch.no_grad(), calibrating(student):
        student(torch.randn(1, 3, 32, 32))
    again = MODELS.build(copy.deepcopy(config))
    load_weights(again, student.state_dict(), "quantized.pth")
    # not calibrated to a fixed value, the SQNR is NaN
    pairs = [(value, again.state_dict()[key]) for key, value in student.state_dict().items()]
    assert all(torch.equal(ours, theirs) or bool(ours.isnan().any()) for ours, theirs in pairs)
