"""One module per attention family: a declaration of its classes, its tap, its quantized form and its blocks.

Every module in a folder below is imported here and registers what it declares (:mod:`.declaration`). To support another
architecture, add a file with an :class:`~.declaration.Adapter` for it; nothing else changes.

``plain``: attention among all tokens of an image. ``windows``: among the tokens of a window.
``pyramids``: to fewer keys and values than queries. ``hybrids``: beside convolutions, or among channels.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
