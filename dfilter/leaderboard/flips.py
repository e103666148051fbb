"""What chance alone gives when every prompt's difference could as well have had the other sign.

Student's t knows nothing of two, three or five prompts that happen to agree, nor of shares that take few
values: two of two prompts won have no variance, and would be certain. Under symmetry all signs are equally
likely, whatever the sizes; for right-or-wrong answers of one seed this is McNemar's exact test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FEW_SIZES = 24  # with more different sizes than this, sums lie close enough for Student's t
FEW_PARTS = 32  # and with more parts than this, unless the sizes have a common step
GRID = 2048
MOST_STEPS = 65_536
FINEST = 36  # steps between the smallest size and zero that are tried: 3 seeds, 3 judges, 2 orders, ties


@dataclass(frozen=True, eq=False)
class Flips:
    """The distribution of a sum's size when the signs of its parts are drawn by chance.

    Attributes:
        tails: (L,) probability that the size reaches 0, 1, … steps.
        unit: one step, in the unit of the parts.
        slack: steps by which rounding may have moved a sum; p allows for it.
    """

    tails: NDArray[np.float64]
    unit: float
    slack: float

    def p(self, total: float) -> float:
        """Return the probability of a sum as far from zero as ``total``, either way."""
        steps = int(np.ceil(abs(total) / self.unit - self.slack))
        return float(self.tails[min(max(steps, 0), len(self.tails) - 1)])

    def reach(self, alpha: float) -> float:
        """Return the largest size of a sum whose p is above ``alpha``."""
        steps = int(np.flatnonzero(self.tails > alpha)[-1])
        return float((steps + self.slack) * self.unit)


def sign_flips(parts: ArrayLike) -> Flips | None:
    """Return the distribution of ``sum(parts)`` under symmetry.

    None where nothing differs from zero, or where the sizes are so many that Student's t will do.

    Args:
        parts: (n,) what each prompt, or cluster of prompts, adds to the sum.
    """
    from scipy.fft import next_fast_len

    size = np.abs(np.asarray(parts, np.float64))
    most = float(size.max(initial=0.0))
    if most == 0:
        return None
    values, counts = np.unique(np.round(size / most, 9), return_counts=True)
    values, counts = values[values > 0], counts[values > 0]
    if values.size > FEW_SIZES:
        return None
    steps, unit = _steps(values, counts)
    if unit == 0:
        return None
    total = int(steps @ counts)
    length = next_fast_len(2 * total + 1, real=True)
    turn = 2 * np.pi * np.outer(np.arange(length // 2 + 1), steps) / length
    cosines = np.cos(turn)
    cosines = cosines**counts if counts.max() > 1 else cosines
    chances = np.fft.irfft(np.prod(cosines, axis=1), length)[: total + 1]
    chances[1:] *= 2
    tails = np.cumsum(np.maximum(chances, 0.0)[::-1])[::-1]
    least = 2.0 ** (1 - int(counts.sum()))  # all signs alike, one way or the other
    off = float((np.abs(steps * unit - values) + 1e-9) @ counts) / unit
    return Flips(np.clip(tails, least, 1.0), unit * most, off + 1e-6)


def _steps(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
    """Return the values as whole numbers of a unit: their common one, or a fine one, or none (0)."""
    finer = np.arange(1, FINEST + 1)[:, None] / values.min()
    whole = np.round(values * finer)
    common = (np.abs(values * finer - whole).max(1) < 1e-5) & (whole @ counts <= MOST_STEPS)
    if common.any():
        first = int(np.argmax(common))
        return whole[first].astype(np.int64), float(1 / finer[first, 0])
    unit = float(values @ counts) / GRID if counts.sum() <= FEW_PARTS else 0.0
    if unit == 0:
        return values.astype(np.int64), unit
    return np.round(values / unit).astype(np.int64), unit
