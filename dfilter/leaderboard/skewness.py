"""What strong skewness of the prompts' differences does to Student's t, which takes them to be symmetric.

Of a long-tailed population most samples miss the tail: their mean lies too low and their spread is too
small, both at once. Hall (1992, "On the removal of skewness by transformation", J. R. Stat. Soc. B 54)
gives the monotone function of t that is Student's again to the next order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def third_moment(deviations: ArrayLike) -> float:
    """Return the third central moment of a sum; 0 unless its parts are beyond doubt skewed.

    Skewed are parts whose skewness is twice what samples of a normal would show, and whose median lies off
    the mean on the same side by a standard error. One far value alone does not move the median: heavy tails
    on both sides are not skewness, and cost no power.

    Args:
        deviations: (n,) of the parts from their expected value.
    """
    parts = np.asarray(deviations, np.float64)
    n = parts.size
    spread = float((parts**2).sum()) / max(n - 1, 1)
    if n < 3 or spread <= 0:
        return 0.0
    third = float((parts**3).sum()) * n / ((n - 1) * (n - 2))
    skewness = third / spread**1.5
    off = -float(np.median(parts)) / math.sqrt(spread / n)
    strong = abs(skewness) > 2 * math.sqrt(6 / n) and math.copysign(1.0, skewness) * off > 1
    return n * third if strong else 0.0


def straightened(t: float, skewness: float) -> float:
    """Return the number that is Student's where ``t`` is not, of a mean with this skewness."""
    a = skewness
    return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6


def bent(t: float, skewness: float) -> float:
    """Return the inverse of :func:`straightened`."""
    a = skewness
    return 3 * (float(np.cbrt(1 + a * (t - a / 6))) - 1) / a if a else t
