"""What can go wrong while images are generated."""

from __future__ import annotations


class GenerationError(ValueError):
    """An input or a setting that generation cannot work with; the message is one line and says what to do."""


class NonFiniteLossError(GenerationError):
    """A loss term, or the gradient, became NaN or infinite.

    Attributes:
        term: Name of the term at fault, ``"gradient"`` when every term is finite but their gradient is not.
    """

    def __init__(self, term: str, step: int) -> None:
        super().__init__(f"{term!r} is not finite at step {step}: lower the learning rate or this term's weight")
        self.term = term
