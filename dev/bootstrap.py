"""Set up ``.venv`` for this checkout; it needs Python 3.11 and a C++ compiler.

Each step writes a stamp with a hash of its requirements and is skipped while the hash is the same. A second call
therefore takes a moment, and an interrupted call continues where it stopped. Only the standard library is used.

Usage: ``python3 dev/bootstrap.py [--venv DIR]``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
HEARTBEAT_SECONDS = 30


class SetupError(Exception):
    """A set-up step failed; the message says what to do."""


def say(text: str) -> None:
    """Print a line without buffering."""
    print(f"[setup] {text}", flush=True)


def run(command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in ``log``; print the elapsed time every half minute."""
    start = time.monotonic()
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            while True:
                try:
                    code = process.wait(timeout=HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"    … still working, {time.monotonic() - start:.0f} s")
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SetupError(f"this command failed: {' '.join(command)}\n{tail}\nThe whole output is in {log}.")


def lines(name: str) -> list[str]:
    """The requirement lines of ``requirements/NAME.txt``."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


class Environment:
    """The virtual environment, and the steps that fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamps = folder / ".psaq"

    def key(self, *names: str) -> str:
        """The hash of the requirements of a step and of the steps before it."""
        return hashlib.sha256("\n".join(line for name in names for line in lines(name)).encode()).hexdigest()

    def step(self, name: str, expect: str, key: str, action: Callable[[Path], None]) -> None:
        """Run one step, unless its stamp holds the same key."""
        stamp = self.stamps / name
        if stamp.exists() and stamp.read_text() == key:
            return
        say(f"{name}: {expect}")
        start = time.monotonic()
        action(self.stamps / f"{name}.log")
        stamp.write_text(key)
        say(f"{name}: done in {time.monotonic() - start:.0f} s")

    def pip(self, log: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Run this environment's pip."""
        run([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments], log, env)

    def create(self) -> None:
        """Create the virtual environment if it does not exist."""
        if not self.python.exists():
            say(f"creating {self.folder}")
            venv.create(self.folder, with_pip=True)
        self.stamps.mkdir(exist_ok=True)

    def build_mmcv(self, log: Path) -> None:
        """Compile mmcv's ops against the torch of this environment."""
        if shutil.which("c++") is None:
            raise SetupError("no C++ compiler: install one (Debian, Ubuntu: apt-get install g++), then run this again.")
        with tempfile.TemporaryDirectory(prefix="psaq-mmcv-") as scratch:
            shim = Path(scratch) / "c++"
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "dev" / "cxx_pch.py"}" "$@"\n')
            shim.chmod(0o755)
            env = dict(os.environ)
            env.update(
                CXX=str(shim),
                PSAQ_PCH_DIR=scratch,
                PSAQ_REAL_CXX=shutil.which("c++") or "c++",
                MMCV_WITH_OPS="1",
                MAX_JOBS=str(os.cpu_count() or 1),
                PATH=f"{self.folder / 'bin'}{os.pathsep}{env.get('PATH', '')}",
            )
            if not self.sees_gpu():
                env["FORCE_CUDA"] = "0"
            self.pip(log, "--no-build-isolation", *lines("mmcv"), env=env)
            check = [str(self.python), "-c", "import mmcv._ext"]
            if subprocess.run(check, capture_output=True).returncode != 0:
                # pip caches wheels by version alone; one that was built against another torch does not import.
                say("the cached mmcv was built against another torch: compiling it again")
                self.pip(
                    log,
                    "--no-build-isolation",
                    "--no-cache-dir",
                    "--force-reinstall",
                    "--no-deps",
                    *lines("mmcv"),
                    env=env,
                )
                run(check, log)

    def sees_gpu(self) -> bool:
        """Whether torch sees a CUDA device here and ``nvcc`` can compile for it."""
        code = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"
        return shutil.which("nvcc") is not None and subprocess.run([str(self.python), "-c", code]).returncode == 0

    def rest(self, log: Path) -> None:
        """Install OpenMMLab, the tools and this package itself."""
        names = ("openmmlab", "runtime", "deploy", "language", "dev", "docs", "torch")
        wanted = [line for name in names for line in lines(name)]
        self.pip(log, "--no-build-isolation", *wanted)
        if subprocess.run([str(self.python), "-c", "import cv2"], capture_output=True).returncode != 0:
            say("OpenCV finds no display libraries here: taking its headless build")
            self.pip(log, "--force-reinstall", "--no-deps", "opencv-python-headless")
        self.pip(log, "--no-build-isolation", "--no-deps", "--editable", str(ROOT))

    def fill(self) -> None:
        """Run all steps in order."""
        self.create()
        self.step(
            "build-tools", "installing (10 s)", self.key("build"), lambda log: self.pip(log, "-U", *lines("build"))
        )
        self.step(
            "torch", "installing (1-3 min, 5.5 GB)", self.key("torch"), lambda log: self.pip(log, *lines("torch"))
        )
        self.step(
            "mmcv",
            "compiling its ops (about 5 min on 2 cores, up to 15 with compilers other than GCC; once)",
            self.key("torch", "mmcv"),
            self.build_mmcv,
        )
        parts = ("build", "torch", "mmcv", "openmmlab", "runtime", "deploy", "language", "dev", "docs")
        everything = self.key(*parts) + str(ROOT)
        self.step("openmmlab", "installing (1 min)", everything, self.rest)


def main() -> int:
    """Set up and print the time it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to put it (default: .venv)")
    folder = parser.parse_args().venv.resolve()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        version = ".".join(map(str, sys.version_info[:2]))
        say(f"this is Python {version}; the pinned stack was tried on 3.11. Set PYTHON=python3.11 for make.")
        return 1
    start = time.monotonic()
    try:
        Environment(folder).fill()
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; call it again to continue")
        return 130
    if time.monotonic() - start > 5:
        say(f"ready in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
