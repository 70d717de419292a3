"""What export says of a model that it cannot export."""

from ..errors import PSAQError


class ExportError(PSAQError):
    """The model, the size or the engine does not allow the export; the message is one line and says what to do."""
