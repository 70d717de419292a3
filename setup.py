"""Packaging, as OpenMMLab's packages do it: configs, tools and model index travel inside as ``psaq_mm/.mim``.

Where mim looks for them depends on which mim it is and on how the package was installed (both were tried):

============================  ======================================  ============================================
install                       onedl-mim 0.5.1                         openmim 0.3.9 (needs ``pkg_resources``)
============================  ======================================  ============================================
wheel, sdist                  ``psaq_mm-VERSION.dist-info/.mim``      ``psaq_mm/.mim``
editable                      the root of the checkout                nowhere: it knows no PEP 660, of any package
============================  ======================================  ============================================

onedl-mim takes the first folder of ``RECORD`` for the package, and pip sorts that file: ``psaq_mm-`` comes before
``psaq_mm/``. So the small files lie in the ``.dist-info`` a second time.
"""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
MIM = {"configs": ("*.py", "*.yml", "*.md", "*.pth"), "tools": ("*.py", "*.sh"), "model-index.yml": ()}
LARGE = ".pth"


def requirements(name):
    """The lines of ``requirements/NAME.txt`` without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def mim_files():
    """What mim looks for in an installed package, relative to the root."""
    for name, patterns in MIM.items():
        found = [path for pattern in patterns for path in (ROOT / name).rglob(pattern)] if patterns else [ROOT / name]
        yield from sorted(path.relative_to(ROOT) for path in found)


def link_mim(package):
    """Make ``package/.mim`` of links into the tree that the package lies in."""
    folder = Path(package) / ".mim"
    folder.mkdir(exist_ok=True)
    for name in MIM:
        link = folder / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.join("..", "..", name))


class BuildWithMim(build_py):
    """Copies them into a build. An editable install gets links in the checkout (git ignores them)."""

    def run(self):
        super().run()
        if self.editable_mode:
            with suppress(OSError):  # no links here: the package then reads the checkout's own folders
                link_mim(ROOT / "psaq_mm")
            return
        for target, source in self.mim_mapping().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def mim_mapping(self):
        return {str(Path(self.build_lib, "psaq_mm", ".mim", path)): str(ROOT / path) for path in mim_files()}

    def get_outputs(self, include_bytecode=1):
        return list(dict.fromkeys([*super().get_outputs(include_bytecode), *self.mim_mapping()]))

    def get_output_mapping(self):
        # What a strict editable install links, file by file.
        return {**super().get_output_mapping(), **self.mim_mapping()}


class WheelWithMim(bdist_wheel):
    """Puts the small ones into the ``.dist-info`` too: see above."""

    def egg2dist(self, egginfo_path, distinfo_path):
        super().egg2dist(egginfo_path, distinfo_path)
        for path in mim_files():
            if path.suffix != LARGE:
                target = Path(distinfo_path, ".mim", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target)


class SourcesWithMim(sdist):
    """Links them into an unpacked sdist, so that its ``psaq_mm`` is complete as it lies there."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        with suppress(OSError):
            link_mim(Path(base_dir) / "psaq_mm")


setup(
    name="psaq_mm",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "psaq_mm" / "__init__.py").read_text(encoding="utf-8"))[1],
    description="Data-free quantization of vision-transformer detectors, as an OpenMMLab plugin",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["psaq_mm*"]),
    package_data={"psaq_mm.report": ["page/*"]},
    cmdclass={"build_py": BuildWithMim, "bdist_wheel": WheelWithMim, "sdist": SourcesWithMim},
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
        "deploy": requirements("deploy"),
        "language": requirements("language"),
        "openmmlab": ["mmengine>=0.10", "mmcv>=2.1", "mmdet>=3.3", "mmsegmentation", "mmpretrain", "timm"],
    },
    zip_safe=False,
)
