"""Run a notebook's code cells in order and keep what they show. Needs no Jupyter.

Usage: ``python -m dev.notebook examples/quickstart.ipynb`` writes the outputs into the notebook.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(notebook: dict[str, Any], name: str = "notebook") -> dict[str, Any]:
    """Execute all code cells in one namespace.

    Args:
        notebook: As in its file (nbformat 4); the cells' outputs are replaced.
        name: What tracebacks call it.

    Returns:
        The namespace afterwards. Errors of a cell are raised.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["outputs"] = outputs("".join(cell["source"]), namespace, f"{name}, cell {count}", count)
            cell["execution_count"] = count
    return namespace


def outputs(code: str, namespace: dict[str, Any], name: str, count: int) -> list[dict[str, Any]]:
    """Execute a cell; what it printed and the value of its last expression, as nbformat's outputs."""
    tree = ast.parse(code, name)
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        del tree.body[-1]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    found: list[dict[str, Any]] = []
    if text := portable(printed.getvalue()):
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data = shown(value)
        found.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    return found


def portable(text: str) -> str:
    """Printed text without the folders of this machine."""
    temporary = re.escape(tempfile.gettempdir())
    return re.sub(rf"{temporary}/[^/\s]+/", "", text.replace(f"{ROOT}/", ""))


def shown(value: Any) -> dict[str, Any]:
    """A value as Jupyter shows it: as a PNG where it can be one, and as text."""
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_png_"):
        # The text of an image names its address in memory.
        data = {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": [type(value).__name__]}
    return data


def main() -> int:
    """Run notebooks in an empty folder and write their outputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    for path in [path.resolve() for path in parser.parse_args().notebooks]:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(notebook, path.name)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {os.path.getsize(path) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
