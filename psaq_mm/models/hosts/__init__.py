"""What the package needs to know of mmdet, mmseg and mmpretrain: their classes by name, and their configs' types."""

from .classes import (
    HOSTS,
    host_class,
    host_imports,
    host_name,
    import_failure,
    kinds_of,
    modules_of,
    named,
    short_name,
)

__all__ = [
    "HOSTS",
    "host_class",
    "host_imports",
    "host_name",
    "import_failure",
    "kinds_of",
    "modules_of",
    "named",
    "short_name",
]
