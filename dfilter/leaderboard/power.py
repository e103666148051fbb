"""What a comparison of many prompts can find: the smallest detectable difference.

The power is that of the test that decides in a table (:mod:`verdicts`): a difference must withstand its own
training noise and that of its table, at the level that Holm leaves it when every other strategy is like the
reference. No formula has both; tables of the given noise are drawn instead, always the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.statistics import (
    ALPHA,
    POWER,
    TwoWay,
    detectable,
    pooled_variance,
    satterthwaite,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS = 4000


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a paired difference, in the metric's unit.

    Attributes:
        training: between the differences of two pairs of trained models, over unlimited prompts.
        prompt: between prompts, once training noise is averaged out.
        rest: what a single prompt of a single pair of models adds.
    """

    training: float
    prompt: float
    rest: float

    @classmethod
    def of(cls, difference: TwoWay) -> Noise:
        """Take the parts from a measured difference; with one seed ``training`` cannot be known: NaN."""
        k, n = difference.k, difference.n
        prompt = float(difference.prompts) * n
        if k == 1:
            return cls(math.nan, math.sqrt(prompt), 0.0)
        rest = float(difference.residual) * k * n
        return cls(
            math.sqrt(max(float(difference.training) * k, 0.0)),
            math.sqrt(max(prompt - rest / k, 0.0)),
            math.sqrt(rest),
        )


@dataclass(frozen=True)
class Family:
    """The tests of a table.

    Attributes:
        tests: verdicts in the whole table; the level of each is divided by them, because the one true
            difference among them takes Holm's first step.
        strategies: compared with one reference at one budget; their seeds tell the training noise.
        parity: the values are comparisons with the reference already.
    """

    tests: int = 1
    strategies: int = 1
    parity: bool = False


def smallest_difference(
    noise: Noise, seeds: int, prompts: int, family: Family = Family(), *, power: float = POWER
) -> float:
    """Return the smallest true difference that is found with probability ``power``.

    Args:
        noise: of the paired difference.
        seeds: per strategy; with one seed training noise cannot be told from an effect, and is left out.
        prompts: per seed.
        family: the tests of the table; the other strategies are taken to be like the reference.
        power: probability of finding it.
    """
    if seeds == 1:
        alpha = ALPHA / family.tests
        spread = (noise.prompt**2 + noise.rest**2) / prompts
        return float(detectable(spread, max(prompts - 1, 1), alpha=alpha, power=power))
    return needed(noise.training**2, noise, seeds, prompts, family, power=power)


def needed(
    training: float, noise: Noise, seeds: int, prompts: int, family: Family, *, power: float = POWER
) -> float:
    """Return :func:`smallest_difference` for a training variance of its own.

    One that was measured may be negative, by as much as seeds happened to differ less than their prompts
    let expect; taken as 0 it would be too large on average.
    """
    alpha = ALPHA / family.tests
    draws = _draws(family.strategies, seeds)
    rest = noise.rest**2 / prompts  # what prompts leave in the mean of one pair of models
    # Both models of a pair are trained and asked alike, so each has half the variance.
    model = max(training + rest, 0.0) / 2
    asked = (noise.prompt**2 / prompts + rest / seeds) * _scaled(draws.asked, prompts - 1)
    left = rest / seeds * _scaled(draws.left, (seeds - 1) * (prompts - 1))
    seen = np.maximum(model * draws.pair / seeds - left, 0.0)
    df = satterthwaite((seen, seeds - 1), (asked, max(prompts - 1, 1)))
    own = _quantiles(df, alpha) * np.sqrt(seen + asked)
    free = family.strategies * (seeds - 1)
    if family.parity:
        terms = [(model * draws.pairs / seeds, free / (1 + (family.strategies - 1) / 4))]
    else:
        terms = [(model * draws.models / seeds, free), (model * draws.reference / seeds, seeds - 1)]
    variance, df = pooled_variance(terms, left, asked, max(prompts - 1, 1))
    table = _quantiles(df, alpha) * np.sqrt(variance)
    distance = math.sqrt(model) * draws.mean + noise.prompt / math.sqrt(prompts) * draws.prompt
    return float(np.quantile(np.maximum(own, table) - distance, power))


@dataclass(frozen=True, eq=False)
class _Draws:
    """What tables of one shape come to, (draws,) each, where every model's seeds are standard normal.

    Attributes:
        mean: of a pair's seeds, a strategy minus the reference.
        pair: variance of that pair's seeds.
        pairs: variance of a pair's seeds, mean over all strategies.
        models: variance of a strategy's seeds, mean over all strategies.
        reference: variance of the reference's seeds.
        prompt: standard normal, of the prompts.
        asked: standard normal, of the prompts' variance.
        left: standard normal, of the residual variance.
    """

    mean: Array
    pair: Array
    pairs: Array
    models: Array
    reference: Array
    prompt: Array
    asked: Array
    left: Array


@lru_cache(maxsize=16)
def _draws(strategies: int, seeds: int) -> _Draws:
    rng = np.random.default_rng(0)
    models = rng.normal(size=(DRAWS, strategies + 1, seeds))
    pairs = models[:, 1:] - models[:, :1]
    spread, spreads = models.var(-1, ddof=1), pairs.var(-1, ddof=1)
    return _Draws(
        pairs[:, 0].mean(-1),
        spreads[:, 0],
        spreads.mean(-1),
        spread[:, 1:].mean(-1),
        spread[:, 0],
        *rng.normal(size=(3, DRAWS)),
    )


def _scaled(normal: Array, df: int) -> Array:
    """Return chi-square numbers over their degrees of freedom (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * max(df, 1))
    return np.asarray(np.maximum(1 - spread + normal * math.sqrt(spread), 0.0) ** 3)


@lru_cache(maxsize=64)
def _grid(alpha: float) -> tuple[Array, Array]:
    from scipy.special import stdtrit

    df = np.geomspace(0.5, 1e6, 600)
    return np.log(df), np.log(stdtrit(df, 1 - alpha / 2))


def _quantiles(df: Array, alpha: float) -> Array:
    """Return Student's two-sided quantiles, between the points of a grid; thousands in a millisecond."""
    x, y = _grid(alpha)
    return np.asarray(np.exp(np.interp(np.log(np.maximum(df, 1e-300)), x, y)))
