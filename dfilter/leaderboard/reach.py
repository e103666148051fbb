"""What a table could have found: the smallest true difference that gets a verdict four times in five."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.differences import rate_ends
from dfilter.leaderboard.power import Family, Noise, needed
from dfilter.leaderboard.statistics import ALPHA, quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfilter.leaderboard.decision import Decision
    from dfilter.leaderboard.differences import Difference
    from dfilter.leaderboard.statistics import TwoWay

NORMAL = 0.8416  # four in five of a normal's draws lie above minus this
# Two estimates are blended. What this very table's test asks for, plus the luck that a difference needs to
# measure so much, is right for the table at hand; what tables of its noise ask for on average is right for
# another one like it, and all its models tell that noise. The fewer they are, the more the first counts.
THIS_TABLE = 0.9


def detectable(found: Difference, decision: Decision | None, peers: Sequence[TwoWay], tests: int) -> float:
    """Return the smallest true difference that the table's test finds with a probability of 80%.

    The other strategies are taken to be like the reference, so Holm's first step must be passed.

    Args:
        found: the difference.
        decision: all that it must withstand in its table.
        peers: the strategies of the table at this budget, each alone; or, where values are comparisons
            with the reference already, their differences.
        tests: verdicts in the whole table.

    Returns:
        Infinity where no difference at all could be found with so few prompts.
    """
    way, alpha = found.way, ALPHA / tests
    if way is None or decision is None or fewest_prompts(tests) > way.n:
        return math.inf
    se = math.sqrt(float(way.variance))
    here = decision.critical(alpha) + NORMAL * se
    family = Family(tests, len(peers), parity=found.parity)
    alike = needed(_training(found, peers), Noise.of(way), way.k, way.n, family)
    share = THIS_TABLE / len(peers)
    reach = share * here + (1 - share) * alike
    if found.share:
        return _of_shares(found, way, decision, reach, alpha)
    return reach if reach > 0 else math.nan  # nothing varies, and nothing says how much could


def fewest_prompts(tests: int = 1) -> int:
    """Return how many prompts are needed for a verdict: when all agree, chance must be below the level."""
    return math.ceil(1 + math.log2(tests / ALPHA))


def _training(found: Difference, peers: Sequence[TwoWay]) -> float:
    """Return the training variance of a difference, by all models of its table together."""
    models = [*peers, found.reference] if found.reference else list(peers)
    free = sum(model.k - 1 for model in models)
    spread = sum(float(m.seeds - m.residual) * m.k * (m.k - 1) for m in models) / free
    return spread if found.parity else 2 * spread


def _of_shares(found: Difference, way: TwoWay, decision: Decision, reach: float, alpha: float) -> float:
    """Allow for what a difference does to the variance of shares, and for the most that one prompt can add.

    Near 0 and 1 shares vary little, and a true difference leads away from there.
    """
    largest = max(map(abs, decision.bounds)) if found.parity else 1.0
    variance = float(way.variance)
    steps = reach / math.sqrt(variance) if variance > 0 else float(quantile(way.n - 1, 1 - alpha)) + NORMAL
    agreeing = (1 - math.log2(alpha)) * largest / way.n
    for _ in range(25):
        before, spread = reach, math.sqrt(float(_moved(found, way, reach)[0].variance))
        reach = max(steps * spread, agreeing + NORMAL * spread)
        if abs(reach - before) < 1e-4 * before:
            break
    if decision.ends and not found.parity:
        reach = max(reach, _past_ends(found, way, alpha))
    return reach if reach < largest else math.inf


def _past_ends(found: Difference, way: TwoWay, alpha: float) -> float:
    """Return the true difference whose interval, of rates near 0 or 1, leaves zero out four times in five."""
    low, high = 0.0, 1.0
    for _ in range(14):  # to a hundredth of a point
        middle = (low + high) / 2
        moved, own, other = _moved(found, way, middle)
        luck = NORMAL * math.sqrt(float(moved.variance))
        unlucky = replace(own, mean=np.maximum(own.mean - luck, other.mean))
        seen = rate_ends(moved, unlucky, other, differ=True)(alpha)[0] > 0
        low, high = (low, middle) if seen else (middle, high)
    return high


def _moved(found: Difference, way: TwoWay, reach: float) -> tuple[TwoWay, TwoWay, TwoWay]:
    """Return the difference were it ``reach``, and both rates alone, as rates below one half."""
    n = way.n
    if found.own is None or found.reference is None:
        fair = replace(way, prompts=np.asarray(float(way.prompts) or 0.25 / n))
        return fair, fair, fair
    own, other = found.own, found.reference
    middle = (float(own.mean) + float(other.mean)) / 2
    start = (min(middle, 1 - middle) * n + 0.5) / (n + 1)
    end = max(min(start + reach, 0.5), start)
    ratio = end * (1 - end) / (start * (1 - start))
    one, two = (
        v if v.variance > 0 else replace(v, prompts=np.asarray(start * (1 - start) / n)) for v in (own, other)
    )
    together = (float(own.variance) + float(other.variance) - float(way.variance)) / 2
    together = float(np.clip(together, 0.0, min(float(one.variance), float(two.variance))))
    one = _scaled(one, start + reach, ratio)
    variance = float(one.variance) + float(two.variance) - 2 * math.sqrt(ratio) * together
    if not float(way.variance):  # alike on all prompts: what differs then is all there is
        variance = reach * (1 - min(reach, 0.5)) / n
    none = np.asarray(0.0)
    return (
        replace(
            way, mean=np.asarray(reach), seeds=none, residual=none, prompts=np.asarray(max(variance, 1e-12))
        ),
        one,
        _scaled(two, start, 1.0),
    )


def _scaled(way: TwoWay, mean: float, ratio: float) -> TwoWay:
    """Return a rate moved to ``mean``: prompts vary as p(1-p), training (alike in log odds) as its square."""
    return replace(
        way,
        mean=np.asarray(min(mean, 1.0)),
        seeds=way.residual * ratio + way.training * ratio**2,
        prompts=way.prompts * ratio,
        residual=way.residual * ratio,
    )
