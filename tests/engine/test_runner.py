"""The runner: sources of images, places, scopes, and evaluation as mmengine's own."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.runner import Runner

from psaq_mm.engine import DFQRunner
from psaq_mm.errors import PSAQError, UsageError
from psaq_mm.generation import SamplePool
from psaq_mm.quantization import QuantizationError, quantizers

NO_CYCLES = {"dfq.distill.cycles": 0}
ONE_STEP = {"dfq.distill.generator_steps": 1, "dfq.distill.student_steps": 1, "dfq.generate.steps": 1}


@pytest.fixture
def train(recipe):
    def run(options: dict) -> DFQRunner:
        runner = DFQRunner.from_cfg(recipe(options))
        runner.train()
        return runner

    return run


def test_mmdets_train_tool_builds_it(recipe):
    cfg = recipe()
    assert cfg.runner_type == "psaq_mm.DFQRunner"
    runner = MMENGINE_RUNNERS.build(cfg)
    assert type(runner) is DFQRunner


def test_the_callers_config_stays(recipe):
    cfg = recipe()
    cfg.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "https://example.org/swin.pth"}
    before = cfg.pretty_text
    runner = DFQRunner.from_cfg(cfg)
    assert cfg.pretty_text == before
    assert runner.cfg.model.backbone.init_cfg is None


def test_hooks_of_the_config_are_not_doubled(recipe):
    hooks = [{"type": "psaq_mm.StateHook", "interval": 7}]
    runner = DFQRunner.from_cfg(recipe({"custom_hooks": hooks}))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert all(names.count(name) == 1 for name in ("ProgressHook", "StateHook", "SamplesHook", "CycleLogHook"))
    assert next(hook for hook in runner.hooks if type(hook).__name__ == "StateHook").interval == 7


def weights_differ(runner: DFQRunner) -> bool:
    key = "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"
    return not torch.equal(runner.teacher.state_dict()[key], runner.student.state_dict()[key])


def test_calibration_alone_is_the_run_without_cycles(train):
    runner = train(NO_CYCLES)
    assert not weights_differ(runner)
    assert len(runner.pool) == 4 and runner.coverage.quantized > 0
    assert (runner.folder / "quantized.pth").exists()


def test_no_data_set_is_touched(train, tmp_path):
    nowhere = {"test_dataloader.dataset.data_root": "/proc/none/", "test_evaluator.ann_file": "/proc/none/val.json"}
    runner = train({**NO_CYCLES, **nowhere})
    assert isinstance(runner.cfg.test_dataloader, dict) and isinstance(runner._test_loop, dict)
    assert (runner.folder / "quantized.pth").exists()


def test_noise_is_gaussian_within_valid_pixels(train):
    noise = {"type": "psaq_mm.NoiseLoop", "images": 6, "image_size": 64, "_delete_": True}
    runner = train({"dfq.generate": noise, "dfq.distill.generator_steps": 0})
    assert len(runner.pool) == 6 and weights_differ(runner)
    images = runner.pool.images
    # 73,728 standard normal values, of which the bounds at -2.12 and 2.25 to 2.64 cut about 3 %
    assert abs(float(images.mean())) < 0.02 and abs(float(images.std()) - 0.97) < 0.02
    mean, std = (getattr(runner.teacher.data_preprocessor, name).view(1, 3, 1, 1).cpu() for name in ("mean", "std"))
    # float32 arithmetic around 255
    assert float((images * std + mean).min()) > -1e-3 and float((images * std + mean).max()) < 255.001


def real(scenes, images: int, size: int, **dataset) -> dict:
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape")},
    ]
    described = {"type": "psaq_mm.DemoScenes", "data_root": str(scenes), "split": "train", "images": 5, "size": 64}
    described |= {"test_mode": True, "pipeline": pipeline, **dataset}
    return {
        "dfq.generate": {
            "type": "psaq_mm.RealImagesLoop",
            "images": images,
            "image_size": size,
            "dataset": described,
            "_delete_": True,
        },
        "dfq.distill.generator_steps": 0,
    }


def test_real_images_are_those_of_the_data_set(train, scenes):
    runner = train(real(scenes, 5, 64))
    mean, std = (getattr(runner.teacher.data_preprocessor, name).view(1, 3, 1, 1).cpu() for name in ("mean", "std"))
    pixels = (runner.pool.images * std + mean).round().to(torch.uint8)
    from psaq_mm.datasets.scenes import draw_scene

    drawn = {draw_scene((0, 0, index), 64).image.tobytes() for index in range(5)}
    assert {image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in pixels} == drawn


@pytest.mark.parametrize("size", [32, 96], ids=["cropped", "padded"])
def test_real_images_take_the_size_asked_for(train, scenes, size):
    runner = train({**real(scenes, 3, size), **NO_CYCLES})
    assert runner.pool.images.shape == (3, 3, size, size)


def test_too_few_real_images(train, scenes):
    with pytest.raises(PSAQError, match="6 real images were asked for, the data set has 5: ask for fewer"):
        train(real(scenes, 6, 64))


def test_real_images_that_are_not_there(train, scenes):
    missing = {"type": "CocoDataset", "data_root": "/proc/none/", "ann_file": "a.json"}
    options = real(scenes, 2, 64)
    options["dfq.generate"]["dataset"] = missing
    with pytest.raises(PSAQError, match="the real images are not there .*a.json"):
        train(options)


@pytest.mark.parametrize("place", ["neck", "logits"])
def test_the_distance_can_lie_elsewhere(train, place):
    runner = train({**ONE_STEP, "dfq.distill.distill_on": place})
    assert weights_differ(runner)


@pytest.mark.parametrize("form", ["cosine", "kl"])
def test_the_distance_can_have_another_form(train, form):
    assert weights_differ(train({**ONE_STEP, "dfq.distill.discrepancy.form": form}))


def test_scope_model_runs_end_to_end(train):
    options = {
        "dfq.quantization.scope": "model",
        "dfq.quantization.scheme": "paper",
        "dfq.distill.distill_on": "logits",
    }
    runner = train({**ONE_STEP, **options})
    names = {row.name for row in runner.coverage.rows if row.bits is not None}
    assert {"neck.lateral_convs.0.conv.weight", "roi_head.bbox_head.fc_cls.input", "rpn_head.rpn_cls.weight"} <= names
    assert all(row.sqnr is not None and math.isfinite(row.sqnr) for row in runner.coverage.rows if row.bits is not None)
    assert runner.evaluate(runner.bare_model())["coco/AR@100"] >= 0


def test_generated_images_are_shared_through_a_file(train, tmp_path, monkeypatch):
    options = {**NO_CYCLES, "dfq.generate.samples": str(tmp_path / "shared.pth")}
    first = train(options)
    monkeypatch.setattr("psaq_mm.distillation.ImageGenerator.optimize", None)
    second = train(options)
    assert first.pool.sha256() == second.pool.sha256()


def test_images_shared_for_another_recipe(train, tmp_path):
    samples = str(tmp_path / "shared.pth")
    train({**NO_CYCLES, "dfq.generate.samples": samples})
    with pytest.raises(UsageError, match=r"shared\.pth holds images of shape \(4, 3.*needs \(2, 3"):
        train({**NO_CYCLES, "dfq.generate.samples": samples, "dfq.generate.images": 2})


@pytest.mark.parametrize(("fresh", "evolved"), [(0.0, 2), (0.5, 1), (1.0, 0)], ids=["none", "half", "all"])
def test_a_cycles_images_start_anew_or_evolve(train, fresh, evolved):
    """Of two images; an image of the pool that is picked to evolve starts as it lies there."""
    options = {**ONE_STEP, "dfq.distill.cycles": 0, "dfq.distill.generator_images": 2, "dfq.distill.fresh": fresh}
    runner = train(options)
    start = runner.stages["distill"].cycle.starting_images()
    known = [any(torch.equal(image, other) for other in runner.pool.images) for image in start]
    assert start.shape == (2, *runner.pool.images.shape[1:]) and sum(known) == evolved


def test_the_share_of_fresh_images_is_a_share(recipe):
    with pytest.raises(UsageError, match="0 to 1"):
        DFQRunner.from_cfg(recipe({"dfq.distill.fresh": 8})).prepare()


def test_micro_batches_give_the_same_images(train):
    """Each term is a mean over images, so halves of a batch add up to the whole: up to float32's rounding, which
    Adam's first steps (lr times the gradient's sign where it is tiny) can blow up for single pixels."""
    runs = [train({**NO_CYCLES, "dfq.generate.generator.micro_batch": size}).pool.images for size in (None, 1)]
    assert float((runs[0] - runs[1]).abs().median()) < 1e-4


def test_val_and_test_are_mmengines(recipe, tmp_path):
    options = recipe()
    for key in ("dataloader", "evaluator"):
        options[f"val_{key}"] = options[f"test_{key}"]
    options.val_cfg = {"type": "ValLoop"}
    ours = DFQRunner.from_cfg(options)
    ours.load_or_resume()
    plain = options.copy()
    plain.pop("dfq")
    plain.pop("runner_type")
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        plain[key] = None
    plain.experiment_name = plain.visualizer.name = f"{options.experiment_name}_plain"
    theirs = Runner.from_cfg(plain)
    expected = theirs.test()
    assert expected == ours.test() == ours.val() == ours.evaluate(ours.bare_model())
    assert any(value > 0 for value in expected.values())


@pytest.mark.parametrize("method", ["test", "val"])
def test_an_uncalibrated_model_does_not_infer(recipe, method):
    cfg = recipe()
    for key in ("dataloader", "evaluator"):
        cfg[f"val_{key}"] = cfg[f"test_{key}"]
    cfg.val_cfg = {"type": "ValLoop"}
    runner = DFQRunner.from_cfg(cfg)
    runner.prepare()
    runner.model = runner.student
    with pytest.raises(PSAQError, match="quantizers are not calibrated, .*calibrate the model or load a calibrated"):
        getattr(runner, method)()
    with pytest.raises(QuantizationError, match="calibrate the model or load a calibrated checkpoint"):
        runner.student.backbone(torch.randn(1, 3, 64, 64))


def test_without_the_data_evaluation_is_skipped(recipe):
    missing = {"type": "CocoDataset", "data_root": "/proc/none/", "ann_file": "val.json", "_delete_": True}
    runner = DFQRunner.from_cfg(recipe({"test_dataloader.dataset": missing}))
    runner.load_or_resume()
    assert runner.evaluate(runner.bare_model()) is None
    assert runner.missing_data == "/proc/none/val.json"


def test_stages_are_built_once_and_before_anything_runs(recipe):
    runner = DFQRunner.from_cfg(recipe())
    runner.prepare()
    stages = dict(runner.stages)
    assert set(stages) == {"generate", "calibrate", "distill"} and len(runner.pool) == 0
    runner.prepare()
    assert all(runner.stages[key] is stage for key, stage in stages.items())


def test_an_arm_without_generation_needs_no_attention(recipe):
    """Noise suits any backbone that can be quantized; only generated images need taps."""
    noise = {"type": "psaq_mm.NoiseLoop", "images": 2, "image_size": 50, "_delete_": True}
    runner = DFQRunner.from_cfg(recipe({"dfq.generate": noise, "dfq.distill.generator_steps": 0}))
    runner.prepare()
    assert runner.stages["distill"].generator is None


def test_the_students_bits_are_the_recipes(recipe):
    options = {"dfq.quantization.weight_bits": 3, "dfq.quantization.activation_bits": 5}
    runner = DFQRunner.from_cfg(recipe(options))
    runner.prepare()
    # The recipes keep the first layer at 8.
    rest = [(name, q) for name, q in quantizers(runner.student) if "patch_embed" not in name]
    assert {q.spec.bits for name, q in rest if name.endswith("weight_quantizer")} == {3}
    assert {q.spec.bits for name, q in rest if not name.endswith("weight_quantizer")} == {5}


def test_the_generators_seed_differs_by_run_and_rank(recipe):
    a, b = (DFQRunner.from_cfg(recipe({"randomness.seed": seed})) for seed in (0, 1))
    assert a.state.generator.initial_seed() != b.state.generator.initial_seed()
    assert isinstance(a.pool, SamplePool) and a.pool.capacity == 1024


def test_a_recipe_without_its_section(recipe):
    cfg = recipe()
    cfg.pop("dfq")
    with pytest.raises(UsageError, match="no dfq section"):
        DFQRunner.from_cfg(cfg)


def test_crops_change_the_ranges_and_not_the_samples(recipe):
    runners = [
        DFQRunner.from_cfg(recipe({"dfq.distill.cycles": 0, "dfq.calibrate.crops": crops})) for crops in (0, 2, 2)
    ]
    for runner in runners:
        runner.train()
    samples = [runner.pool.images for runner in runners]
    assert torch.equal(samples[0], samples[1])
    scales = [torch.cat([one.scale.flatten() for _, one in quantizers(runner.student)]) for runner in runners]
    assert not torch.equal(scales[0], scales[1]) and torch.equal(scales[1], scales[2])
    # MinMax over more images: no range is smaller
    assert (scales[1] >= scales[0]).all()


def test_gptq_rounds_otherwise_and_is_nearer_to_the_teacher(recipe):
    options = {"dfq.distill.cycles": 0, "dfq.quantization.weight_bits": 4}
    runners = [DFQRunner.from_cfg(recipe({**options, "dfq.calibrate.rounding": one})) for one in ("nearest", "gptq")]
    distances = []
    for runner in runners:
        runner.train()
        images = runner.pool.images[:4].to(runner.device)
        with torch.no_grad():
            teacher, student = (model.backbone(images) for model in (runner.teacher, runner.student))
        distances.append(sum(((a - b) ** 2).mean() / (a**2).mean() for a, b in zip(teacher, student, strict=True)))
    assert distances[1] < distances[0]
