"""The median and its interval by order statistics. Pure."""

import math
import statistics
from collections.abc import Sequence

Z = 1.959964  # 95 %, two-sided


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of `values`: the values of ranks floor((n - z sqrt(n)) / 2) and
    ceil(1 + (n + z sqrt(n)) / 2), counted from 1 (Hoefler and Belli 2015, doi 10.1145/2807591.2807644).

    None where these ranks do not exist: of fewer than 8 values.
    """
    ordered, n = sorted(values), len(values)
    low, high = math.floor((n - Z * math.sqrt(n)) / 2), math.ceil(1 + (n + Z * math.sqrt(n)) / 2)
    return None if low < 1 or high > n else (ordered[low - 1], ordered[high - 1])


def relative_width(values: Sequence[float]) -> float | None:
    """Return the width of the median's interval over the median; None where there is no interval."""
    interval = median_interval(values)
    return None if interval is None else (interval[1] - interval[0]) / statistics.median(values)
