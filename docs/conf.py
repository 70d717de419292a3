"""Sphinx configuration. ``make docs`` builds the site with warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "psaq_mm"
author = "The psaq_mm authors"
copyright = "The psaq_mm authors, Apache-2.0"
release = re.findall(r'__version__ = "(.+)"', (ROOT / "psaq_mm" / "__init__.py").read_text(encoding="utf-8"))[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The browser's own MathML: the pages then need no script from the network.
html_math_renderer = "mathml"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

# Options such as --check would lose a dash.
smartquotes = False

html_theme = "furo"
html_title = f"psaq_mm {release}"
html_css_files = ["style.css"]
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As :ivar: entries of the class, or a property that is listed under Attributes would be described twice.
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}


def tables_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the Markdown tables of a docstring into reStructuredText, in place.

    Docstrings are read in editors too, where Markdown's tables are easier to write and to read.
    """
    source, lines[:] = list(lines), []
    while source:
        line = source.pop(0)
        if not line.lstrip().startswith("|"):
            lines.append(line)
            continue
        table = [line]
        while source and source[0].lstrip().startswith("|"):
            table.append(source.pop(0))
        indent = line[: len(line) - len(line.lstrip())]
        lines += [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
        for row in (one for index, one in enumerate(table) if index != 1):
            cells = row.strip().strip("|").split("|")
            lines += [f"{indent}   {' ' if i else '*'} - {cell.strip()}" for i, cell in enumerate(cells)]
        lines.append("")


def inline_math(translator: Any, node: Any) -> None:
    """Write an equation within a line as MathML."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def block_math(translator: Any, node: Any) -> None:
    """Write an equation of its own as MathML."""
    translator.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    """Register the hooks."""
    app.connect("autodoc-process-docstring", tables_to_rst)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
