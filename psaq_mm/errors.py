"""All errors that the package raises for a user to correct. This module imports nothing.

Every message is one line that says what is wrong and what to do. Command-line tools print it without a traceback and
exit with ``exit_code``: 2 where the config or the command line is at fault, else 1.
"""

from __future__ import annotations


class PSAQError(Exception):
    """The root of the package's errors: the run cannot continue."""

    exit_code = 1


class UsageError(PSAQError):
    """A setting, an argument or a config is not valid."""

    exit_code = 2


class QuantizationError(PSAQError, ValueError):
    """A quantizer, a policy or a quantized checkpoint is not valid."""


class GenerationError(PSAQError, ValueError):
    """Image generation cannot work with an input or a setting."""

    exit_code = 2


class NonFiniteLossError(GenerationError):
    """A loss term or its gradient became NaN or infinite.

    Attributes:
        term: Name of the term; ``"gradient"`` when every term is finite but their gradient is not.
    """

    exit_code = 1

    def __init__(self, term: str, step: int) -> None:
        super().__init__(f"{term!r} is not finite at step {step}: lower the learning rate or this term's weight")
        self.term = term


class ExportError(PSAQError):
    """A model, an image size or an engine does not allow the export."""
