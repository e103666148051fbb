"""What a comparison could find before anything of it is measured: verdicts possible, differences, prompts.

With few prompts the test that decides is not Student's alone: signs that agree by chance, shares near their
ends and the scale itself count. Tables of usual noise are drawn then and put to the table's own test; a
formula (:mod:`power`) has the same answer where prompts are many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.differences import difference, withstood
from dfilter.leaderboard.measured import Measured
from dfilter.leaderboard.power import Family, Noise, smallest_difference
from dfilter.leaderboard.reach import fewest_prompts
from dfilter.leaderboard.statistics import ALPHA, POWER, interval, two_way

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfilter.leaderboard.statistics import TwoWay

MOST_PROMPTS = 100_000
FEW_PROMPTS = 60  # up to here tables are drawn
TABLES = 200  # that are drawn: the power is known to 3 points
HALVINGS = 8
SHARED = 0.2  # spread between prompts that all models have in common; differences do not see it


@dataclass(frozen=True)
class Kind:
    """A metric before it is measured.

    Attributes:
        noise: of a paired difference, in the metric's unit.
        steps: from the lowest value to the highest: 1 for right or wrong, 4 for the win share of two
            orders, ties among them; 0 where values know neither steps nor ends.
    """

    noise: Noise
    steps: int = 0

    def room(self, *, parity: bool = False) -> float:
        """Return the difference that none can exceed; from parity, one half."""
        return (0.5 if parity else 1.0) if self.steps else math.inf


# Win shares of two models over both orders: 0.313 between prompts in a published two-order judgement of
# AlpaGasus 2 (512 prompts); accuracies: the difference of two right-or-wrong answers that agree on three
# quarters of the prompts. Training: 1 point, the order of the differences that reproductions of LESS report
# between runs.
TYPICAL = {
    "rate": Kind(Noise(training=0.01, prompt=0.20, rest=0.46), steps=1),
    "win rate": Kind(Noise(training=0.01, prompt=0.24, rest=0.20), steps=4),
    "loss": Kind(Noise(training=0.01, prompt=0.15, rest=0.05)),
}


@dataclass(frozen=True)
class Plan:
    """What a number of seeds and prompts can show.

    Attributes:
        seeds: per strategy.
        prompts: per seed; 0 when no number up to 100,000 is enough.
    """

    seeds: int
    prompts: int


def plans(effect: float, kind: Kind, *, family: Family, seeds: Sequence[int] = (3, 5, 10)) -> list[Plan]:
    """Return, for each number of seeds, the prompts that a given effect needs."""
    return [Plan(k, prompts_needed(effect, kind, k, family)) for k in seeds]


def prompts_needed(effect: float, kind: Kind, seeds: int, family: Family) -> int:
    """Return the fewest prompts that find ``effect`` with so many seeds; 0 when no number would.

    More prompts need not find more: where few seeds vary more than the prompts do, the test must allow for
    what so few seeds may hide. The first number is looked for that is enough.
    """

    def enough(prompts: int) -> bool:
        if prompts > FEW_PROMPTS:
            return smallest(kind, seeds, prompts, family) <= effect
        return _Trial(kind, seeds, prompts, family).finds(effect)

    if effect >= kind.room(parity=family.parity):
        return 0
    low, high = fewest_prompts(family.tests) - 1, fewest_prompts(family.tests)
    while not enough(high):
        if high >= MOST_PROMPTS:
            return 0
        low, high = high, min(math.ceil(1.25 * high), MOST_PROMPTS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=64)
def smallest(kind: Kind, seeds: int, prompts: int, family: Family) -> float:
    """Return the smallest true difference that gets its verdict with a probability of 80%.

    Args:
        kind: of the metric.
        seeds: per strategy, three or more.
        prompts: per seed.
        family: the tests of the table; the other strategies are taken to be like the reference.

    Returns:
        Infinity where none would: so few prompts allow no verdict, or the scale holds no such difference.
    """
    if prompts < fewest_prompts(family.tests):
        return math.inf
    if prompts <= FEW_PROMPTS:
        return _Trial(kind, seeds, prompts, family).smallest()
    reach = smallest_difference(kind.noise, seeds, prompts, family)
    return reach if reach < kind.room(parity=family.parity) else math.inf


class _Trial:
    """Tables of usual noise, always the same ones, in which the first strategy differs by a given amount.

    Every value is a normal number cut into steps. A strategy and its reference lie as far above the middle of
    the scale as below it, so that the largest difference there can be has room.
    """

    def __init__(self, kind: Kind, seeds: int, prompts: int, family: Family) -> None:
        self.rate, self.family = bool(kind.steps), family
        self.alpha = ALPHA / family.tests
        self.room = kind.room(parity=family.parity)
        self.middle = 0.5 if kind.steps else 0.0
        self.cuts, (shared, own, rest), unit = _latent(kind, parity=family.parity)
        self.spread = math.hypot(shared, own, rest)
        rng = np.random.default_rng(0)
        models = family.strategies + (0 if family.parity else 1)
        training = unit * kind.noise.training / (1 if family.parity else math.sqrt(2))
        self.scores = (
            shared * rng.normal(size=(TABLES, 1, 1, prompts))
            + own * rng.normal(size=(TABLES, models, 1, prompts))
            + rest * rng.normal(size=(TABLES, models, seeds, prompts))
            + training * rng.normal(size=(TABLES, models, seeds, 1))
        )

    def smallest(self) -> float:
        """Return the smallest difference that is found; infinity where not even the largest is."""
        low, high, most = 0.0, self.spread, self._shift(0.999 * self.room)
        while not self._found(min(high, most)):
            if high >= most:
                return math.inf
            low, high = high, 2 * high
        high = min(high, most)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._found(middle) else (middle, high)
        return self._effect(high)

    def finds(self, effect: float) -> bool:
        """Return whether a true difference gets its verdict with a probability of 80%."""
        return self._found(self._shift(effect))

    def _effect(self, shift: float) -> float:
        """Return the difference of two mean values whose normal numbers lie ``shift`` apart."""
        if not self.rate:
            return shift
        if self.family.parity:
            return self._mean(shift) - self.middle
        return self._mean(shift / 2) - self._mean(-shift / 2)

    def _mean(self, place: float) -> float:
        from scipy.special import ndtr

        return float(ndtr((place - self.cuts) / self.spread).mean())

    def _shift(self, effect: float) -> float:
        """Return how far apart the normal numbers of two values lie that differ by ``effect`` on average."""
        if not self.rate:
            return effect
        return _where(lambda shift: self._effect(shift) >= effect, 20 * self.spread)

    def _found(self, shift: float) -> bool:
        """Return whether four in five tables call the first strategy better."""
        scores = self.scores.copy()
        first = 0 if self.family.parity else 1
        scores[:, :first] -= shift / 2
        scores[:, first] += shift if self.family.parity else shift / 2
        scores[:, first + 1 :] -= 0 if self.family.parity else shift / 2
        values = (scores[..., None] > self.cuts).mean(-1) if self.rate else scores
        minus = values[:, 0] - self.middle if self.family.parity else values[:, 1] - values[:, 0]
        likely = interval(two_way(minus), 1 - self.alpha)[0] > 0  # Student's t, which must hold in any case
        if likely.mean() < POWER:
            return False
        enough, spare = math.ceil(POWER * TABLES), int(likely.sum())
        found = 0
        for table in values[likely]:
            better = self._better(table)
            found, spare = found + better, spare - (not better)
            if found >= enough or spare < enough:
                break
        return found >= enough

    def _better(self, table: NDArray[np.float64]) -> bool:
        """Return whether the first strategy of a (model, seed, prompt) table passes Holm's first step."""
        seeds, prompts = (tuple(range(size)) for size in table.shape[1:])
        names = tuple(map(str, prompts))
        models = [Measured(seeds, names, values, names, self.rate) for values in table[:2]]
        if self.family.parity:
            found, others = difference(models[0], None, self.middle), two_way(table - self.middle)
        else:
            found, others = difference(models[1], models[0]), two_way(table[1:])
        peers = [_one(others, at) for at in range(self.family.strategies)]
        decision = withstood(found, peers) if found else None
        return bool(decision and decision.interval(self.alpha)[0] > 0)


def _one(ways: TwoWay, at: int) -> TwoWay:
    """Return one of several tables' estimates."""
    return replace(
        ways,
        mean=ways.mean[at],
        seeds=ways.seeds[at],
        prompts=ways.prompts[at],
        residual=ways.residual[at],
    )


def _latent(kind: Kind, *, parity: bool) -> tuple[NDArray[np.float64], tuple[float, float, float], float]:
    """Return where normal numbers are cut, their spreads, and their unit over the metric's, for a noise.

    The spreads are between prompts for all models together, for each model by itself, and between the
    models of one strategy.
    """
    prompt, rest = kind.noise.prompt**2, kind.noise.rest**2
    cuts = (np.arange(kind.steps) + 0.5) / max(kind.steps, 1) - 0.5
    if kind.steps == 1 and not parity:
        # Two normal numbers with correlation r are both above 0 with a probability of 1/4 + asin(r) / 2π.
        strategies = 0.25 - (prompt + rest) / 2  # covariance of the answers of two strategies
        seeds = strategies + prompt / 2  # and of two seeds of one strategy
        shared, same = (math.sin(2 * math.pi * covariance) for covariance in (strategies, seeds))
        return (
            cuts,
            (math.sqrt(shared), math.sqrt(same - shared), math.sqrt(1 - same)),
            math.sqrt(2 * math.pi),
        )
    scale = _stretched(cuts, prompt + rest) if kind.steps else 1.0
    own, single = scale * math.sqrt(prompt), scale * math.sqrt(rest)
    if parity:
        return cuts, (0.0, own, single), 1.0
    return cuts, (SHARED, own / math.sqrt(2), single / math.sqrt(2)), 1.0


def _stretched(cuts: NDArray[np.float64], variance: float) -> float:
    """Return how much wider normal numbers must spread for steps of this variance, which end at 0 and 1."""
    from scipy.special import ndtr

    steps = np.arange(len(cuts) + 1) / len(cuts)

    def enough(scale: float) -> bool:
        below = np.concatenate([[0.0], ndtr(cuts / (scale * math.sqrt(variance))), [1.0]])
        return float(np.diff(below) @ (steps - 0.5) ** 2) >= variance

    return _where(enough, 4.0)


def _where(holds: Callable[[float], bool], most: float) -> float:
    """Return the smallest number up to ``most`` from which on ``holds`` is true."""
    low, high = 0.0, most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
