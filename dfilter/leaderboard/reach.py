"""What a table could have found: the smallest true difference that gets a verdict four times in five.

A true difference moves what is measured; the rest is luck, good or bad. So one looks for the difference
that this table's own test would call a finding, and adds the bad luck that four in five are spared. How
large that luck may be is estimated as the test does it, by the two models at hand alone: another strategy
may be trained with less noise, or with more. With three seeds that estimate is rough, and Student's
quantile allows for it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.differences import tested, withstood
from dfilter.leaderboard.flips import FEW_SIZES
from dfilter.leaderboard.statistics import ALPHA, POWER, pooled, quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfilter.leaderboard.differences import Difference
    from dfilter.leaderboard.statistics import TwoWay

HALVINGS = 12
FARTHEST = 20.0  # in log odds: every answer right, or wrong


def detectable(found: Difference, peers: Sequence[TwoWay], tests: int, *, up: bool = True) -> float:
    """Return the smallest true difference that the table's test finds with a probability of 80%.

    The other strategies are taken to be like the reference, so Holm's first step must be passed.

    Args:
        found: the difference.
        peers: the strategies of the table at this budget, each alone; or, where values are comparisons
            with the reference already, their differences.
        tests: verdicts in the whole table.
        up: whether higher is better; a share that has no room for the better is moved to the worse.

    Returns:
        Infinity where no difference at all could be found with so few prompts or seeds.
    """
    way, alpha = found.way, ALPHA / tests
    decision = withstood(found, peers)
    if way is None or decision is None or fewest_prompts(tests) > way.n:
        return math.inf
    if found.share:
        better = _of_shares(found, peers, alpha, up=up)
        return better if math.isfinite(better) else _of_shares(found, peers, alpha, up=not up)
    seen = decision.critical(alpha, up=up)
    if decision.flips and way.n <= FEW_SIZES:
        # Signs that agree by chance weigh as much as what they are signs of, so they grow with a shift.
        seen = _first(lambda by: _sees(_shifted(found, by, up=up), peers, alpha, up=up), 0.0, 20 * seen)
    reach = seen + _luck(found)
    return reach if reach > 0 else math.nan  # nothing varies, and nothing says how much could


def fewest_prompts(tests: int = 1) -> int:
    """Return how many prompts are needed for a verdict: when all agree, chance must be below the level."""
    return math.ceil(1 + math.log2(tests / ALPHA))


def _luck(found: Difference) -> float:
    """Return how far below the truth a difference is measured in one of five tables, by its own two models."""
    if found.way is None:
        return math.inf
    variance, df = pooled(found.way, [found.own or found.way], found.reference)
    return float(quantile(df, 2 * POWER - 1)) * math.sqrt(float(variance))


def _sees(moved: Difference, peers: Sequence[TwoWay], alpha: float, *, up: bool) -> bool:
    """Return whether a difference that is measured so is a finding."""
    decision = withstood(moved, peers)
    if decision is None:
        return False
    low, high = decision.interval(alpha)
    return low > 0 if up else high < 0


def _shifted(found: Difference, by: float, *, up: bool) -> Difference:
    """Return the difference, had it been measured as ``by``."""
    own, other = found.tables
    by = (by if up else -by) - found.estimate.value
    return tested(replace(found, tables=(own + by, other)))


def _of_shares(found: Difference, peers: Sequence[TwoWay], alpha: float, *, up: bool) -> float:
    """Return the difference of shares that is found: they vary less near 0 and 1, and end there."""
    move, sign = _moves(found), 1.0 if up else -1.0
    alone = found.own or found.way

    def moved(by: float) -> Difference:
        return tested(replace(found, tables=(move(sign * by), found.tables[1])))

    def size(there: Difference) -> float:
        return sign * float(there.way.mean) if there.way else math.nan

    def sees(by: float) -> bool:
        there = moved(by)
        others = [there.own or there.way if peer is alone else peer for peer in peers]
        return size(there) > 0 and _sees(there, [way for way in others if way], alpha, up=up)

    seen = _first(sees, -FARTHEST, FARTHEST)
    least = size(moved(seen)) if math.isfinite(seen) else math.inf

    def found_often(by: float) -> bool:
        there = moved(by)
        return size(there) - _luck(there) >= least

    often = _first(found_often, seen, FARTHEST) if math.isfinite(seen) else math.inf
    return size(moved(often)) if math.isfinite(often) else math.inf


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return about the smallest number from ``low`` to ``high`` from which on ``holds``; infinity if none."""
    if not holds(high):
        return math.inf
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _moves(found: Difference) -> Callable[[float], NDArray[np.float64]]:
    """Return what a strategy's shares become when it gets better by so much, in log odds.

    Each answer is taken to lie somewhere on a line that is cut into the values seen. Where within a value
    it lies nobody knows; it is drawn, nearer to the next one on prompts on which the models do better.
    """
    own, other = found.tables
    both = own if isinstance(other, float) else np.concatenate([own, other])
    order = np.lexsort((_nearness(own, _chances(both)).ravel(), own.ravel()))
    place = np.empty(own.size)
    place[order] = _log_odds((np.arange(own.size) + 0.5) / own.size)
    levels = np.unique(
        np.concatenate([[0.0, 1.0], own.ravel(), *([] if isinstance(other, float) else [other.ravel()])])
    )
    below = np.searchsorted(np.sort(own.ravel()), levels[:-1], side="right")
    cuts = _log_odds(np.clip(below, 0.25, own.size - 0.25) / own.size)
    return lambda by: levels[np.searchsorted(cuts, place + by)].reshape(own.shape)


def _chances(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n,) how well models may do on each prompt, drawn from what its few answers leave possible.

    The chances are taken to be a beta distribution with the mean and the variance between prompts seen.
    """
    cells, n = table.shape
    mean, prompts = float(table.mean()), table.mean(0)
    mean = (mean * n + 0.5) / (n + 1)
    within = float(table.var(0).mean()) / max(cells - 1, 1)
    between = max(float(prompts.var()) - within, 1e-6)
    weight = min(max(mean * (1 - mean) / between - 1, 1e-3), 1e6)
    right = prompts * cells
    drawn = np.random.default_rng(1).beta(right + weight * mean, cells - right + weight * (1 - mean))
    return np.asarray(np.clip(drawn, 1e-9, 1 - 1e-9))


def _nearness(own: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where each answer may lie within its value: right and wrong lie on two sides of a cut."""
    drawn = np.random.default_rng(0).random(own.shape)
    drawn = np.where(own == 0, drawn * (1 - chance), np.where(own == 1, 1 - (1 - drawn) * chance, drawn))
    return _log_odds(chance) + _log_odds(np.clip(drawn, 1e-12, 1 - 1e-12))


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(share) - np.log1p(-share))
