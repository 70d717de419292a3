"""Packaging, as OpenMMLab's packages do it: configs, tools and model index travel inside as ``psaq_mm/.mim``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = {"configs": ("*.py", "*.pth"), "tools": ("*.py",), ".": ("model-index.yml",)}


def requirements(name):
    """The lines of ``requirements/NAME.txt`` without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def mim_files():
    """What mim looks for in an installed package, relative to the root."""
    for folder, patterns in MIM.items():
        for pattern in patterns:
            found = (ROOT / folder).glob(pattern) if folder == "." else (ROOT / folder).rglob(pattern)
            yield from sorted(path.relative_to(ROOT) for path in found)


class BuildWithMim(build_py):
    """Copies them into the build, and never into the source tree. An editable install needs no copy."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for path in mim_files():
                target = Path(self.build_lib) / "psaq_mm" / ".mim" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target)

    def get_outputs(self, include_bytecode=1):
        mim = [] if self.editable_mode else [str(Path(self.build_lib, "psaq_mm", ".mim", path)) for path in mim_files()]
        return super().get_outputs(include_bytecode) + mim


setup(
    name="psaq_mm",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "psaq_mm" / "__init__.py").read_text(encoding="utf-8"))[1],
    description="Data-free quantization of vision-transformer detectors, as an OpenMMLab plugin",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["psaq_mm*"]),
    cmdclass={"build_py": BuildWithMim},
    # OpenMMLab comes in two distributions with the same import names, so it is never required here: a second one
    # would be installed over the first. psaq_mm/compat.py says what is missing.
    install_requires=["torch>=2.1", "torchvision>=0.16", *requirements("runtime")],
    extras_require={
        "onedl": [
            "onedl-mmengine>=0.10",
            "onedl-mmcv>=2.3",
            "onedl-mmdetection>=3.4",
            "onedl-mmsegmentation",
            "onedl-mmpretrain",
            "timm",
        ],
        "openmmlab": ["mmengine>=0.10", "mmcv>=2.1", "mmdet>=3.3", "mmsegmentation", "mmpretrain", "timm"],
    },
    zip_safe=False,
)
