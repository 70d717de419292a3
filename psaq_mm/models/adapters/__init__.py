"""One module per attention family: a declaration of its classes, its tap, its quantized form and its blocks.

Every module of this folder is imported here and registers what it declares (:mod:`.declaration`). To support another
architecture, add a file with an :class:`~.declaration.Adapter` for it; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
