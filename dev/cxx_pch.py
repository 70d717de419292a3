"""A front end of the C++ compiler that precompiles torch's headers, for building mmcv.

Most of mmcv's build time is spent on parsing torch's headers again for each of about a hundred files. This front end
compiles ``torch/types.h`` once for each set of flags and includes the result in every file: four minutes instead of
fifteen on two cores. It also appends ``-std=c++20``, which the headers of torch 2.14 need and which overrides the
``-std=c++17`` of mmcv's build.

Usage: ``PSAQ_PCH_DIR=DIR python cxx_pch.py COMPILER-ARGUMENTS…``. If the precompiled header cannot be made (another
compiler, no disk space), files are compiled without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

COMPILER = os.environ.get("PSAQ_REAL_CXX", "c++")
STANDARD = "-std=c++20"
HEADER = "#include <torch/types.h>\n"


def header_flags(arguments: list[str]) -> list[str]:
    """The arguments without the source, the output and the dependency files."""
    flags: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("-o", "-MF", "-MT", "-MQ"):
            skip = True
        elif argument in ("-c", "-MMD", "-MD") or argument.endswith((".cpp", ".cc", ".cxx", ".c")):
            continue
        else:
            flags.append(argument)
    return flags


def precompiled(arguments: list[str], folder: Path) -> Path | None:
    """Make the precompiled header for these flags once; ``None`` where it cannot be made."""
    flags = header_flags(arguments)
    place = folder / hashlib.sha256("\0".join(flags).encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    header = place / "pch.h"
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / "failed").exists():
            return None
        if not (place / "pch.h.gch").exists():
            header.write_text(HEADER)
            command = [COMPILER, *flags, STANDARD, "-x", "c++-header", str(header), "-o", str(place / "new.gch")]
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
                (place / "failed").touch()
                return None
            (place / "new.gch").rename(place / "pch.h.gch")
    return header


def main(arguments: list[str]) -> int:
    """Compile one file, or link, as the arguments say."""
    folder = os.environ.get("PSAQ_PCH_DIR")
    if folder and "-c" in arguments and any(a.endswith((".cpp", ".cc", ".cxx")) for a in arguments):
        header = precompiled(arguments, Path(folder))
        if header is not None:
            arguments = [*arguments, "-include", str(header)]
    return subprocess.run([COMPILER, *arguments, STANDARD]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
