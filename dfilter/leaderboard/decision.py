"""The test that decides about one difference: its interval, its p, and what it takes to be found.

Several things can make a difference out of nothing: prompts and training seeds (Student's t, with the
difference's own noise and with its table's), few prompts that agree by chance (:mod:`flips`), and shares
near 0 or 1, which show too little variance. A difference must withstand all of them: the interval is the
hull of theirs and p the largest, so that p is at most 0.05 just where the 95% interval leaves zero out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dfilter.leaderboard.skewness import bent, straightened
from dfilter.leaderboard.statistics import ALPHA, quantile, tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfilter.leaderboard.flips import Flips

LEAST = 1e-12  # smaller p are not told apart


@dataclass(frozen=True, eq=False)
class Decision:
    """A difference and all that it is tested against.

    Attributes:
        mean: the difference.
        noises: variance and degrees of freedom, by each way of taking the training noise.
        flips: the distribution under symmetric prompts, where they are few or take few values.
        ends: interval of the difference at a level 1 - alpha, for shares near 0 or 1.
        bounds: what a difference can be.
        skew: third central moment of the mean by its prompts, where it is strong.
    """

    mean: float
    noises: tuple[tuple[float, float], ...]
    flips: Flips | None = None
    ends: Callable[[float], tuple[float, float]] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    skew: float = 0.0

    def also(self, variance: float, df: float) -> Decision:
        """Return the decision that withstands this noise too."""
        return replace(self, noises=(*self.noises, (variance, df)))

    def critical(self, alpha: float, *, up: bool) -> float:
        """Return the size above (below) which a difference is no chance at level ``alpha``, shares apart."""
        halves = []
        for variance, df in self.noises:
            t = float(quantile(df, 1 - alpha))
            halves.append(max(t, bent(t, self._skewness(variance, up=up))) * math.sqrt(variance))
        return max(*halves, self.flips.reach(alpha) if self.flips else 0.0)

    def _skewness(self, variance: float, *, up: bool) -> float:
        """Return the skewness of the mean, seen from below (above)."""
        return (self.skew if up else -self.skew) / variance**1.5 if variance > 0 else 0.0

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval at level 1 - alpha; NaN where nothing varies and nothing else is known."""
        return self._hull(self.critical(alpha, up=True), self.critical(alpha, up=False), alpha)

    def _hull(self, below: float, above: float, alpha: float) -> tuple[float, float]:
        low, high = self.mean - below, self.mean + above
        if self.ends:
            ends = self.ends(alpha)
            low, high = min(low, ends[0]), max(high, ends[1])
        elif below == above == 0:
            return math.nan, math.nan
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    def p(self) -> float:
        """Return the two-sided p of "the true difference is zero"; never 0."""
        found = [2 * tail for tail in self._tails(abs(self.mean), up=self.mean > 0)]
        if self.flips:
            found.append(self.flips.p(self.mean))
        p = min(max(*found, LEAST), 1.0)
        if self.ends is None:
            return p
        ends = self.ends

        def apart(alpha: float) -> bool:
            low, high = ends(alpha)
            return low > 0 or high < 0

        return _least(apart, p)

    def beyond(self, bound: float, *, up: bool) -> float:
        """Return the one-sided p of "the true difference does not lie above (below) ``bound``"."""
        sign = 1.0 if up else -1.0
        p = max(*self._tails(sign * (self.mean - bound), up=up), LEAST)
        if self.flips or self.ends:

            def above(alpha: float) -> bool:
                half = self.flips.reach(2 * alpha) if self.flips else 0.0
                low, high = self._hull(half, half, 2 * alpha)
                return low > bound if up else high < bound

            p = _least(above, p, most=0.5)
        return p

    def _tails(self, far: float, *, up: bool) -> list[float]:
        """Return the probability that noise alone gets as far up (down), by each noise."""
        found = []
        for variance, df in self.noises:
            found.append(float(tail(far, variance, df)))
            if skewness := self._skewness(variance, up=up):
                spread = math.sqrt(variance)
                found.append(float(tail(straightened(far / spread, skewness) * spread, variance, df)))
        return found


def _least(holds: Callable[[float], bool], least: float, most: float = 1.0) -> float:
    """Return the smallest level from ``least`` on at which ``holds``, to seven digits; 1 where at none."""
    low, high = math.log(least), math.log(most * (1 - 1e-9))
    if low >= high or holds(least):
        return least
    if not holds(math.exp(high)):
        return 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(math.exp(middle)) else (middle, high)
    return math.exp(high)
