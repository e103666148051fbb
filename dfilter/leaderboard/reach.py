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
from zlib import crc32

import numpy as np

from dfilter.leaderboard.differences import tested, withstood
from dfilter.leaderboard.flips import FEW_SIZES
from dfilter.leaderboard.statistics import ALPHA, POWER, pooled, quantile, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfilter.leaderboard.differences import Difference
    from dfilter.leaderboard.statistics import TwoWay

HALVINGS = 12
DRAWS = 8
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
    spread, df = _noise(found)
    reach = seen + float(quantile(df, 2 * POWER - 1)) * spread
    return reach if reach > 0 else math.nan  # nothing varies, and nothing says how much could


def fewest_prompts(tests: int = 1) -> int:
    """Return how many prompts are needed for a verdict: when all agree, chance must be below the level."""
    return math.ceil(1 + math.log2(tests / ALPHA))


def missing(found: Difference, peers: Sequence[TwoWay], tests: int) -> str:
    """Return what keeps a table from finding any difference: prompts, or seeds, or both."""
    way, decision = found.way, withstood(found, peers)
    if way is None or decision is None or fewest_prompts(tests) > way.n:
        return "prompts"
    alpha, most = ALPHA / tests, max(map(abs, decision.bounds))
    least = (0.25 if found.parity else 0.5) / way.n if found.share else 0.0  # of shares in the middle
    spread = math.sqrt(max(float(way.prompts), least))
    if float(quantile(way.n - 1, 1 - alpha) + quantile(way.n - 1, 2 * POWER - 1)) * spread < most / 2:
        return "seeds"  # were training without noise, there would be room enough
    return "prompts and seeds" if way.training > way.prompts else "prompts"


def _noise(found: Difference) -> tuple[float, float]:
    """Return the standard error of a difference by its own two models, and its degrees of freedom."""
    if found.way is None:
        return math.inf, 1.0
    variance, df = pooled(found.way, [found.own or found.way], found.reference)
    return math.sqrt(float(variance)), float(df)


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
    """Return the difference of shares that is found: they vary less near 0 and 1, and end there.

    Which answers change is chance, and with them what the test asks for. So where about the difference lies
    is looked for first, and then how often it is found there, over several draws.
    """
    moves = [_moves(found, draw) for draw in range(DRAWS)]

    def at(by: float, draw: int = DRAWS // 2) -> tuple[float, float, float, float]:
        return _asked(found, moves[draw](by if up else -by), peers, alpha, up=up)

    def often(by: float) -> bool:
        size, half, spread, df = at(by)
        return size > 0 and size - half >= float(quantile(df, 2 * POWER - 1)) * spread

    by = _first(often, -FARTHEST, FARTHEST)
    if not math.isfinite(by):
        return math.inf
    _, halves, spreads, df = np.array([at(by, draw) for draw in range(DRAWS)]).T

    def found_often(size: float) -> bool:
        return float(np.mean(1 - tail(size - halves, spreads**2, df))) >= POWER

    largest = at(FARTHEST)[0]
    return _first(found_often, 0.0, largest)


def _asked(
    found: Difference, values: NDArray[np.float64], peers: Sequence[TwoWay], alpha: float, *, up: bool
) -> tuple[float, float, float, float]:
    """Return, for other values: the difference, what the test asks for, and _noise."""
    there = tested(replace(found, tables=(values, found.tables[1])))
    alone, instead = found.own or found.way, there.own or there.way
    others = [instead if peer is alone and instead else peer for peer in peers]
    decision = withstood(there, others)
    if decision is None:
        return 0.0, math.inf, math.inf, 1.0
    low, high = decision.interval(alpha)
    size, half = (decision.mean, decision.mean - low) if up else (-decision.mean, high - decision.mean)
    return size, half, *_noise(there)


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return about the smallest number from ``low`` to ``high`` from which on ``holds``; infinity if none."""
    if not holds(high):
        return math.inf
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _moves(found: Difference, draw: int) -> Callable[[float], NDArray[np.float64]]:
    """Return what a strategy's shares become when it gets better by so much, in log odds.

    Each answer is taken to lie somewhere on a line that is cut into the values seen. Where within a value
    it lies nobody knows; it is drawn, for every table anew, nearer to the next one on prompts and for seeds
    that do better.
    """
    own, other = found.tables
    both = own if isinstance(other, float) else np.concatenate([own, other])
    rng = np.random.default_rng([draw, crc32(both.tobytes())])
    alone = found.own or found.way
    near = _nearness(own, both, float(alone.training) * alone.k if alone else 0.0, rng)
    order = np.lexsort((near.ravel(), own.ravel()))
    place = np.empty(own.size)
    place[order] = _log_odds((np.arange(own.size) + 0.5) / own.size)
    levels = np.unique(np.concatenate([[0.0, 1.0], both.ravel()]))
    below = np.searchsorted(np.sort(own.ravel()), levels[:-1], side="right")
    cuts = _log_odds(np.clip(below, 0.25, own.size - 0.25) / own.size)
    return lambda by: levels[np.searchsorted(cuts, place + by)].reshape(own.shape)


def _nearness(
    own: NDArray[np.float64], table: NDArray[np.float64], training: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return where each answer may lie within its value: right and wrong lie on two sides of a cut."""
    between = float(table.mean(0).var()) - float(table.var(0).mean()) / max(len(table) - 1, 1)
    of_prompts, of_seeds = _chances(table, between, rng), _chances(own.T, training, rng)
    odds = _log_odds(of_prompts) + (_log_odds(of_seeds) - _log_odds(of_seeds).mean())[:, None]
    chance = 1 / (1 + np.exp(-odds))
    drawn = rng.random(own.shape)
    drawn = np.where(own == 0, drawn * (1 - chance), np.where(own == 1, 1 - (1 - drawn) * chance, drawn))
    return np.asarray(odds + _log_odds(np.clip(drawn, 1e-12, 1 - 1e-12)))


def _chances(table: NDArray[np.float64], between: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (n,) shares that may be true of a table's columns, drawn from what few answers leave possible.

    They are taken to be of a beta distribution with the mean and the variance ``between`` columns seen.
    """
    cells = len(table)
    mean = (float(table.mean()) * table.size + 0.5) / (table.size + 1)
    weight = min(max(mean * (1 - mean) / max(between, 1e-6) - 1, 1e-3), 1e6)
    right = table.mean(0) * cells
    drawn = rng.beta(right + weight * mean, cells - right + weight * (1 - mean))
    return np.asarray(np.clip(drawn, 1e-9, 1 - 1e-9))


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(share) - np.log1p(-share))
