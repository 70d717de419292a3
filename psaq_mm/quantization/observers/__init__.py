"""Range estimators: the range that a quantizer covers, estimated from the batches it observed.

One module per estimator. A new one is a module in this folder with a subclass of :class:`Observer` that is decorated
with ``@register_observer('name')``; every module here is imported at the first look-up.
"""

from .base import Observer, make_observer, register_observer, rows_of, subsample
from .minmax import MinMaxObserver
from .mse import MSEObserver
from .percentile import PercentileObserver

__all__ = [
    "MSEObserver",
    "MinMaxObserver",
    "Observer",
    "PercentileObserver",
    "make_observer",
    "register_observer",
    "rows_of",
    "subsample",
]
