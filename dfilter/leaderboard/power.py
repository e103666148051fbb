"""What a comparison can find: the smallest detectable difference, and the prompts and seeds for an effect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.statistics import ALPHA, POWER, TwoWay, detectable, satterthwaite

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_PROMPTS = 100_000


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


# Before anything is measured. Win shares of two models over both orders: 0.313 between prompts in a
# published two-order judgement of AlpaGasus 2 (512 prompts); accuracies: the difference of two right-or-wrong
# answers that agree on three quarters of the prompts. Training: 1 point, the order of the differences
# that reproductions of LESS report between runs.
TYPICAL = {
    "rate": Noise(training=0.01, prompt=0.20, rest=0.40),
    "win rate": Noise(training=0.01, prompt=0.24, rest=0.20),
    "loss": Noise(training=0.01, prompt=0.15, rest=0.05),
}


@dataclass(frozen=True)
class Plan:
    """What a number of seeds and prompts can show.

    Attributes:
        seeds: per strategy.
        prompts: per seed; 0 when no number up to 100,000 is enough.
        difference: smallest true difference found with a probability of 80%.
    """

    seeds: int
    prompts: int
    difference: float


def smallest_difference(
    noise: Noise, seeds: int, prompts: int, *, comparisons: int = 1, power: float = POWER
) -> float:
    """Return the smallest true difference that is found with probability ``power``.

    Args:
        noise: of the paired difference.
        seeds: per strategy; with one seed training noise cannot be told from an effect, and is left out.
        prompts: per seed.
        comparisons: verdicts in the table; the level is divided by them, which is a little cautious
            because Holm's first step is the strictest.
        power: probability of finding it.
    """
    training = noise.training**2 / seeds if seeds > 1 else 0.0
    asked = (noise.prompt**2 + noise.rest**2 / seeds) / prompts
    df = satterthwaite((training, max(seeds - 1, 1)), (asked, max(prompts - 1, 1)))
    return float(detectable(training + asked, df, alpha=ALPHA / comparisons, power=power))


def prompts_needed(
    effect: float, noise: Noise, seeds: int, *, comparisons: int = 1, power: float = POWER
) -> int:
    """Return the fewest prompts that find ``effect`` with so many seeds; 0 when no number would."""
    if smallest_difference(noise, seeds, MOST_PROMPTS, comparisons=comparisons, power=power) > effect:
        return 0
    low, high = 2, MOST_PROMPTS
    while low < high:
        middle = (low + high) // 2
        if smallest_difference(noise, seeds, middle, comparisons=comparisons, power=power) <= effect:
            high = middle
        else:
            low = middle + 1
    return low


def plans(
    effect: float, noise: Noise, *, seeds: Sequence[int] = (3, 5, 10), comparisons: int = 1
) -> list[Plan]:
    """Return, for each number of seeds, the prompts that a given effect needs."""
    found = []
    for k in seeds:
        n = prompts_needed(effect, noise, k, comparisons=comparisons)
        reach = smallest_difference(noise, k, n or MOST_PROMPTS, comparisons=comparisons)
        found.append(Plan(k, n, float(np.round(reach, 6))))
    return found
