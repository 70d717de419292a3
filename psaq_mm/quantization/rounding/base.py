"""The base class of rounding methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from ...errors import QuantizationError
from ...utils.registry import Registry

AllReduce = Callable[[Tensor], Any]


class Rounding:
    """Base class of the rounding methods.

    Example::

        rounding = make_rounding("gptq")
        if rounding.needs_inputs:
            with rounding.collect(model), torch.no_grad():
                for batch in samples:
                    model(batch)
        rounding.apply(model)

    Subclasses override ``apply``; those that need the layers' inputs also override ``needs_inputs``, ``collect`` and
    ``all_reduce``.

    Attributes:
        name: The name that configs give it.
        needs_inputs: Whether calibration batches must pass through the model inside ``collect`` before ``apply``.
    """

    name: ClassVar[str] = ""
    needs_inputs: ClassVar[bool] = False

    @contextmanager
    def collect(self, model: nn.Module) -> Iterator[nn.Module]:
        """Collects what ``apply`` needs from the batches that pass through the model inside the ``with`` block.

        Statistics of an earlier ``collect`` are discarded, so that an interrupted pass can be repeated.

        Args:
            model: A calibrated model.

        Yields:
            The model.
        """
        yield model

    def all_reduce(self, all_reduce: AllReduce) -> None:
        """Sums the collected statistics over all processes, which passed different batches through the model.

        Call it once after ``collect``, in all processes.

        Args:
            all_reduce: Sums a tensor over all processes in place.
        """

    def apply(self, model: nn.Module) -> None:
        """Rounds the weights of the model's calibrated quantized layers in place; their scales stay the same.

        Args:
            model: The model that ``collect`` was given.

        Raises:
            QuantizationError: A quantizer isn't calibrated, or the collected statistics aren't valid.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply(model)")


ROUNDINGS: Registry[Rounding] = Registry("rounding", QuantizationError, __package__ or "")
register_rounding = ROUNDINGS.register


def make_rounding(described: str | Mapping[str, Any]) -> Rounding:
    """A new instance of a rounding method.

    Example: ``make_rounding({"type": "gptq", "shrinkage": 0.3})``.

    Args:
        described: The registered name, or a mapping of ``type``, the name, and the arguments of the method.

    Raises:
        QuantizationError: No method is registered under the name, or an argument is unknown, missing, of another type
            or outside its range; the message lists the known names.
    """
    options = dict(described) if isinstance(described, Mapping) else {"type": described}
    method = ROUNDINGS.get(options.pop("type", ""))
    known = list(inspect.signature(method).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise QuantizationError(
            f"rounding {method.name!r} has no option {unknown[0]!r}: it has {', '.join(known) or 'no options'}"
        )
    try:
        return method(**options)
    except TypeError as error:
        raise QuantizationError(f"rounding {method.name!r} cannot be made ({error}): correct its options") from None
