"""The errors of the package as a table, read from the source: what each ``raise`` says, and its remedy.

The package's messages have the form ``what is wrong: what to do``. Values that are known only at run time are shown as
capitals (``{path}`` as ``PATH``) or as an ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from psaq_mm import errors
from psaq_mm.visualization.record_tables import markdown

PACKAGE = Path(__file__).resolve().parent.parent / "psaq_mm"
OWN = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.PSAQError)}
# The message of NonFiniteLossError is made in its class; an incomplete installation is an ImportError.
ERRORS = OWN - {"NonFiniteLossError"} | {"ImportError"}


def error_table(name: str, package: Path = PACKAGE) -> str:
    """The errors of a subpackage or module as Markdown, in the order of the source.

    Args:
        name: A subpackage such as ``quantization``, a module such as ``cli``, or ``tools`` beside the package.
        package: The folder of the package.
    """
    place = package.parent / name if name == "tools" else package / name
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    # A message may be raised at several places.
    found = dict.fromkeys(message for file in files for message in messages(file.read_text(encoding="utf-8")))
    return markdown(["error", "remedy"], [list(split(message)) for message in found], left=2)


def messages(source: str) -> Iterator[str]:
    """The messages that a module's ``raise`` statements spell out."""
    module = ast.parse(source)
    constants = {
        target.id: statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant | ast.JoinedStr)
    }
    raises = [node for node in ast.walk(module) if isinstance(node, ast.Raise)]
    for node in sorted(raises, key=lambda one: one.lineno):
        call = node.exc
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args:
            message = text(call.args[0], constants)
            if any(letter.islower() for letter in message):
                yield message


def text(node: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    """An expression as it appears in a message: placeholders as words, the module's constants as their values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text(node.value, constants)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left, constants) + text(node.right, constants)
    if isinstance(node, ast.Name):
        return text(constants[node.id], constants) if node.id in constants else node.id.upper()
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        return node.attr.upper()
    return "…"


def split(message: str) -> tuple[str, str]:
    """What is wrong and what to do, as Markdown cells; the second is empty where the message has one part only."""
    cell = " ".join(message.split()).removeprefix("…: ")
    for sign in "|*_":
        cell = cell.replace(sign, f"\\{sign}")
    cell = cell.replace("<", "&lt;")
    for match in re.finditer(": ", cell):
        wrong, remedy = cell[: match.start()], cell[match.end() :]
        # "layer NAME: ..." only says where.
        if len(wrong.split()) > 2:
            return wrong, remedy
    return cell, ""
