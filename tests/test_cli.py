"""Bad input: one line that says what to do, exit code 2 for usage and 1 for failure, nothing lost."""

from __future__ import annotations

import argparse
import copy
import sys

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from psaq_mm import cli
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.generation import GenerationError, NonFiniteLossError
from psaq_mm.quantization import QuantizationError
from psaq_mm.utils.termination import Terminated
from tests.conftest import ROOT, Outcome, random_weights


def one_line(outcome: Outcome, code: int, *said: str) -> None:
    lines = [line for line in outcome.err.splitlines() if not line.startswith("  ")]  # but for progress
    assert len(lines) == 1 and lines[0].startswith("error: "), outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for part in said:
        assert part in lines[0]
    assert outcome.code == code


PATTERN = [{"pattern": "backbone.stages.7", "bits": 4}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dfq.quantization.weight_bits": 1}, ["bits=1", "an integer from 2 to 8"]),
        ({"dfq.quantization.activation_bits": 9}, ["bits=9", "an integer from 2 to 8"]),
        ({"dfq.quantization.overrides": [{"pattern": "*", "bits": 16}]}, ["bits=16", "an integer from 2 to 8"]),
        ({"dfq.quantization.overrides": PATTERN}, ["'backbone.stages.7' matches no module", "near names: backbone."]),
        ({"dfq.quantization.scheme": "fast"}, ["scheme='fast' is unknown"]),
        ({"dfq.quantization.scope": "head"}, ["scope 'head' is unknown: use one of backbone, model"]),
        ({"dfq.quantization.bitts": 8}, ["unknown keys ['bitts']"]),
        ({"dfq.imagess": {}}, ["dfq has unknown keys imagess: known are quantization, generate"]),
        ({"dfq.generate.stepz": 3}, ["dfq.generate is not valid", "stepz"]),
        ({"dfq.generate.generator.rate": 3}, ["dfq.generate is not valid", "rate"]),
        ({"dfq.generate.generator.entropy.variant": "v9"}, ["'v9'"]),
        ({"dfq.generate.generator.lr": -1.0}, ["learning rate -1.0 must be positive"]),
        ({"dfq.generate.steps": 0}, ["steps of GenerateLoop must be at least 1"]),
        ({"dfq.generate.type": "psaq_mm.MagicLoop"}, ["dfq.generate is not valid", "psaq_mm.MagicLoop"]),
        ({"dfq.generate.image_size": (100, 64)}, ["images of 100x64 do not fit SwinTransformer", "example 96x64"]),
        ({"dfq.generate": 3}, ["dfq.generate is not valid"]),
        ({"dfq.calibrate.batch": 3}, ["dfq.calibrate is not valid", "batch"]),
        ({"dfq.calibrate.rounding": "up"}, ["calibrate.rounding 'up' is unknown: use one of gptq, nearest"]),
        ({"dfq.calibrate.crops": -1}, ["calibrate.crops -1 is not a whole number of at least 0: give 0 for none"]),
        ({"dfq.generate.image_size": (64, 64, 3)}, ["image_size (64, 64, 3) is no size", "height and width"]),
        ({"dfq.generate.image_size": 0}, ["image_size 0 is no size"]),
        ({"dfq.distill.cycles": -1}, ["must not be negative"]),
        ({"dfq.distill.distill_on": "head"}, ["'head': use one of backbone, blocks, neck, logits"]),
        (
            {"dfq.distill.relative_lr.wieght": 1e-4},
            ["lr has unknown keys wieght: known are weight, bias, scale"],
        ),
        ({"dfq.distill.lr.weight": 1e-4}, ["dfq.distill.lr is now relative_lr", "rate of weights by 30"]),
        ({"dfq.distill.discrepancy.form": "mse"}, ["'mse'"]),
        ({"dfq.distill.generator.rate": 3}, ["dfq.distill is not valid", "rate"]),
    ],
    ids=lambda value: ".".join(next(iter(value)).split(".")[1:]) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(run_dfq, options, said):
    one_line(run_dfq(options), 2, *said)


def test_a_config_without_a_recipe(run_dfq, recipe, tmp_path):
    cfg = recipe()
    cfg.pop("dfq")
    cfg.dump(tmp_path / "plain.py")
    one_line(run_dfq(config=tmp_path / "plain.py"), 2, "the config has no dfq section")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no config"),
        ("a = (", "cannot be read"),
        ("_base_ = './none.py'", "cannot be read"),
        ("a = b", "cannot be read"),
        ("a = 1 / 0", "cannot be read"),
    ],
    ids=["missing", "syntax", "base", "name", "arithmetic"],
)
def test_configs_that_cannot_be_read(run_dfq, tmp_path, text, said):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    one_line(run_dfq(config=path), 2, said, str(path))


def test_options_that_do_not_fit(run_dfq):
    one_line(run_dfq(None, "--cfg-options", "model.backbone.depths.9=3"), 2, "cannot be read")


def test_a_backbone_without_an_adapter_is_quantized_with_one_warning(run_dfq, recipe, tmp_path):
    cfg = recipe()
    cfg.model.backbone = ConfigDict(type="ResNet", depth=18, norm_eval=True)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    init_default_scope("mmdet")
    torch.save(random_weights(MODELS.build(copy.deepcopy(cfg.model))).state_dict(), tmp_path / "resnet.pth")
    cfg.load_from = str(tmp_path / "resnet.pth")
    for scope in ("backbone", "model"):
        cfg.dfq.quantization.scope = scope
        cfg.dump(tmp_path / f"{scope}.py")
        outcome = run_dfq(None, "--work-dir", tmp_path / scope, config=tmp_path / f"{scope}.py")
        assert outcome.code == 0, outcome.err
        said = [line for line in (outcome.out + outcome.err).splitlines() if "no adapter declares" in line]
        assert len(said) == 1 and "no adapter declares the attention of ResNet: its Linear and Conv2d" in said[0]


class Payload:
    def __reduce__(self):
        return print, ("harm",)


@pytest.fixture
def bad_checkpoint(tmp_path, tiny_checkpoint):
    """Makes checkpoints that cannot be loaded."""
    state = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    path = tmp_path / "bad.pth"

    def make(kind: str) -> str:
        if kind == "truncated":
            path.write_bytes(tiny_checkpoint.read_bytes()[:10_000])
        elif kind == "pickle":
            torch.save({"state_dict": state, "more": Payload()}, path)
        elif kind == "other":
            torch.save({key.replace("backbone.", "body."): value for key, value in state.items()}, path)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", ["there is no checkpoint at", "curl -L --create-dirs -o", "https://example.org/it.pth"]),
        ("truncated", ["is truncated or no checkpoint at all: fetch it again"]),
        ("pickle", ["holds pickled", "print", "refuses to load safely"]),
        ("other", ["of another architecture: it lacks backbone.", "and", "more"]),
    ],
)
def test_checkpoints_that_cannot_be_used(run_dfq, bad_checkpoint, kind, said):
    outcome = run_dfq({"checkpoint_url": "https://example.org/it.pth"}, "--checkpoint", bad_checkpoint(kind))
    one_line(outcome, 1, *said)
    assert "harm" not in outcome.out


def test_no_checkpoint_at_all(run_dfq):
    one_line(run_dfq({"load_from": None}), 1, "set load_from in the config or give --checkpoint")


def test_a_quantized_checkpoint_is_not_quantized_again(run_dfq, finished):
    checkpoint = str(finished.runner.folder / "quantized.pth")
    one_line(
        run_dfq(None, "--checkpoint", checkpoint),
        1,
        "is a quantized model's, the config a float one's: give a float checkpoint",
    )


def test_a_work_dir_that_cannot_be_written(run_dfq, tmp_path):
    (tmp_path / "file").touch()
    outcome = run_dfq(None, "--work-dir", str(tmp_path / "file" / "below"))
    one_line(outcome, 2, "cannot write to the work dir", "choose another with --work-dir")


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_not_finite(run_dfq, tiny_checkpoint, tmp_path, value):
    loaded = torch.load(tiny_checkpoint, weights_only=True)
    name = "backbone.stages.1.blocks.0.norm1.weight"
    loaded["state_dict"][name][0] = value
    torch.save(loaded, tmp_path / "nan.pth")
    outcome = run_dfq(None, "--checkpoint", str(tmp_path / "nan.pth"))
    one_line(outcome, 1, "nan.pth is broken", f"{name} (1 of 32 values)")
    assert "evaluating" not in outcome.out


def test_weights_whose_outputs_overflow(run_dfq, tiny_checkpoint, tmp_path):
    loaded = torch.load(tiny_checkpoint, weights_only=True)
    loaded["state_dict"]["backbone.patch_embed.projection.weight"] *= 1e38
    torch.save(loaded, tmp_path / "large.pth")
    outcome = run_dfq(None, "--checkpoint", str(tmp_path / "large.pth"))
    one_line(outcome, 1, "the float model's outputs on images of 64x64 are not finite", "the checkpoint is broken")
    assert "evaluating" not in outcome.out


def test_images_that_the_position_embedding_does_not_take(run_dfq, tiny_recipe, tiny_checkpoint, tmp_path):
    """mmdet's Swin has a table for one size and adds it as it is."""
    init_default_scope("mmdet")
    changed = {"model.backbone.use_abs_pos_embed": True, "model.backbone.pretrain_img_size": 64}
    model = copy.deepcopy(tiny_recipe)
    model.merge_from_dict(changed)
    torch.save({"state_dict": random_weights(MODELS.build(model.model)).state_dict()}, tmp_path / "table.pth")
    options = {**changed, "load_from": str(tmp_path / "table.pth"), "dfq.generate.image_size": (128, 128)}
    outcome = run_dfq(options)
    one_line(outcome, 2, "images of 128x128 do not fit SwinTransformer", "set image_size")
    assert "evaluating" not in outcome.out


def test_a_config_without_a_scope(run_dfq, tmp_path, recipe):
    plain = recipe().to_dict()
    del plain["default_scope"]
    Config(plain).dump(tmp_path / "recipe.py")
    one_line(run_dfq(config=tmp_path / "recipe.py"), 2, "no default_scope: set default_scope = 'mmdet'")


def test_a_type_that_nobody_registered(run_dfq):
    outcome = run_dfq({"model.neck.type": "FPNN"})
    one_line(outcome, 2, "called FPNN in mmdet", "correct its name, or add the module that registers it")


def test_a_checkpoint_by_its_address(run_dfq):
    outcome = run_dfq(None, "--checkpoint", "https://example.org/it's/swin.pth")
    one_line(outcome, 1, "is an address", "curl -L --create-dirs -o checkpoints/swin.pth")


def test_a_distance_that_explodes_keeps_the_last_good_state(run_dfq, tmp_path):
    options = {"dfq.distill.relative_lr": {"weight": 1e32}, "dfq.distill.cycles": 2}
    outcome = run_dfq(options)
    one_line(outcome, 1, "'student discrepancy' is not finite at step 2: lower the learning rate")
    state = torch.load(tmp_path / "work" / "dfq_state.pth", weights_only=True)
    assert state["done"] == ["generate", "calibrate"]
    assert all(
        torch.isfinite(v).all() for k, v in state["student"].items() if v.is_floating_point() and "sqnr" not in k
    )
    assert not (tmp_path / "work" / "quantized.pth").exists()


@pytest.mark.parametrize("shown", [False, True], ids=["plain", "--traceback"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("say\nwhat"), 2),
        (PSAQError("say what"), 1),
        (NonFiniteLossError("entropy", 3), 1),
        (GenerationError("say what"), 2),
        (QuantizationError("say what"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exit_codes(monkeypatch, capsys, error, code, shown):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["tool", "config.py", *(["--traceback"] if shown else [])])
    if shown:
        with pytest.raises(type(error)):
            cli.run_tool(main)
    else:
        assert cli.run_tool(main) == code
        assert capsys.readouterr().err == f"error: {' '.join(str(error).split())}\n"


def test_an_option_without_a_value_is_a_usage_error(monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    cli.common_arguments(parser)
    assert parser.parse_args(["c.py", "--cfg-options", "a.b=1", "c=[2,3]"]).cfg_options == {"a.b": 1, "c": [2, 3]}
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["c.py", "--cfg-options", "foo"])
    assert stopped.value.code == 2 and "'foo' has no value: write key=value" in capsys.readouterr().err


@pytest.mark.parametrize("again", ["", "go on with --resume"], ids=["cannot go on", "can go on"])
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(KeyboardInterrupt(), 130, "interrupted"), (Terminated("terminated"), 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_tool_says_how_to_go_on_if_it_can(capsys, error, code, text, again):
    def main():
        raise error

    assert cli.run_tool(main, again=again) == code
    assert capsys.readouterr().err == (f"{text}: {again}\n" if again else f"{text}\n")


@pytest.mark.parametrize("tool", ["dfq", "train", "ablate", "paper_table", "analyze"])
def test_tools_with_long_runs_say_how_to_go_on(tool):
    text = (ROOT / "tools" / f"{tool}.py").read_text()
    hint = "go on with --resume" if '"--resume"' in text else "run the command again to go on"
    assert f'run_tool(main, again="{hint}")' in text


def test_an_error_of_ours_in_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run_tool(lambda: 1 // 0)
