"""The commands and programs of ``docs/deployment.md`` run as they stand, and the pages name files that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
FENCE = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[\w-]+)?\)")
NAMED = re.compile(r"`((?:psaq_mm|tools|configs|dev|benchmarks|docs|examples|tests|requirements)/[\w./-]+\.\w+)`")
PART = re.compile(r"(overrides|by_bits|generate|calibrate|distill)=")
# A program that the others of its page import.
MODULE = re.compile(r"# (\w+\.py)\n")
# Names files that its own examples write.
EXAMPLES = "extending.md"
# Each class of the extending page by its name, after the page's own programs.
USE = """
from psaq_mm.generation import Discrepancy, PatchSimilarityEntropy, initial_images
from psaq_mm.quantization import QuantLinear
from psaq_mm.quantization.rounding import make_rounding
from my_beit import Attention

functional = nn.Sequential(Attention(32, 2)).eval()
nn.init.normal_(functional[0].q_bias)
tokens = torch.randn(2, 5, 32)
expected = functional(tokens)
functional = quantize_model(functional, policy)
with calibrating(functional), torch.no_grad():
    functional(tokens)
assert type(functional[0]) is QuantMyBEiTAttention and isinstance(functional[0].to_qkv, QuantLinear)
assert 0 < (functional(tokens) - expected).norm() < 0.05 * expected.norm()

quantized = quantize_model(MyViT().eval(), policy)
with calibrating(quantized), torch.no_grad():
    quantized(images)
before = quantized.blocks[0].attn.to_qkv.weight.detach().clone()
make_rounding("stochastic").apply(quantized)
moved = (quantized.blocks[0].attn.to_qkv.weight.detach() - before).abs()
scale = quantized.blocks[0].attn.to_qkv.weight_quantizer.scale.detach().view(-1, 1)
assert 0 < float((moved / scale).max()) <= 1.001
(row,) = {q.spec.observer for m in quantized.modules() if (q := getattr(m, "input_quantizer", None))}
assert row == "deviation"

taps_model = MyViT()
with AttentionTaps(taps_model) as taps:
    taps_model(images.requires_grad_())
    loss = PatchSimilarityEntropy(variant="spread")(taps.take())
loss.backward()
assert loss < 0 and images.grad.abs().sum() > 0

discrepancy = Discrepancy(form="mse")
discrepancy.fit([torch.full((1, 2), 2.0)])
assert float(discrepancy([torch.tensor([[2.0, -2.0]])], [torch.tensor([[1.0, -2.0]])])) == 0.25

made = initial_images(2, (8, 8), [-1, -1, -1], [1, 1, 1], torch.Generator().manual_seed(0), start="flat")
assert made.shape == (2, 3, 8, 8) and made.abs().max() <= 1
print("all used")
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    assert not [link for link in links if not (page.parent / link).exists()]
    if page.name != EXAMPLES:
        assert not [name for name in NAMED.findall(text) if not (ROOT / name).exists()]


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}(.*?)```", contents, re.DOTALL) for line in block.split()}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_are_valid_python(page):
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            # A part of a recipe is a keyword argument.
            compile(f"dict({code})" if PART.match(code) else code, page.name, "exec")


def test_the_classes_of_the_extending_page_work(tmp_path):
    """In a process of its own, whose registries the examples may change."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    programs = []
    for _, code in FENCE.findall(page):
        module = MODULE.match(code)
        if module:
            (tmp_path / module[1]).write_text(code)
        elif not PART.match(code):
            programs.append(code)
    (tmp_path / "page.py").write_text("\n".join([*programs, USE]))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, tmp_path / "page.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "attn.to_qkv" in done.stdout and done.stdout.rstrip().endswith("all used")


def walk_through(run_here, recipe: Path) -> int:
    """Run all but what quantizes, from the working directory, in the page's order; a small recipe for the demo's."""
    import mmdet

    ran = 0
    for language, code in FENCE.findall(DEPLOYMENT):
        if language == "python":
            exec(compile(code, "docs/deployment.md", "exec"), {})
            ran += 1
            continue
        for line in code.strip().splitlines():
            python, tool, *arguments = shlex.split(line)
            assert python == "python"
            if tool == "-m":
                tool, *arguments = arguments
                tool = f"{tool.replace('.', '/')}.py"
            if tool.startswith("MMDET"):
                script = Path(mmdet.__file__).parent / ".mim" / Path(tool).relative_to("MMDET")
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True)
                assert done.returncode == 0, done.stderr[-2000:]
            elif tool != "tools/dfq.py":
                if arguments[0].startswith("configs/"):
                    assert (ROOT / arguments[0]).is_file()
                    arguments[0] = str(recipe)
                outcome = run_here(tool.removeprefix("tools/"), *arguments)
                assert (outcome.code, outcome.err) == (0, ""), line
            ran += 1
    return ran


def test_the_deployment_page_takes_a_reader_through(run_here, finished, tiny_recipe, tmp_path, monkeypatch):
    """On the shrunken detector of the tests, which step 1 would have made in minutes."""
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="the extra [deploy] is not installed")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.runner.work_dir, "work_dirs/detector")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save("image.png")
    tiny_recipe.dump("tiny.py")
    assert walk_through(run_here, Path("tiny.py")) == 9
    assert {path.name for path in Path("deploy").iterdir()} >= {
        "detector.onnx",
        "parity.json",
        "times.json",
        "openvino",
    }
