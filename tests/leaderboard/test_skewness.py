"""Skewed differences: the transformation, when it is used, and what it prevents and costs."""

from __future__ import annotations

import numpy as np
import pytest

from dfilter.leaderboard import skewness
from dfilter.leaderboard.differences import difference
from dfilter.leaderboard.measured import Measured


@pytest.mark.parametrize("a", [-0.7, -0.1, 0.0, 0.1, 0.7])
def test_bent_is_the_inverse_and_both_rise(a):
    places = np.linspace(-6, 6, 41)
    there = [skewness.straightened(t, a) for t in places]
    assert [skewness.bent(t, a) for t in there] == pytest.approx(list(places))
    assert np.all(np.diff(there) >= 0)


def test_the_third_moment_of_a_sum_by_hand():
    # Their cubes sum to 3312, k3 = 3312 * 10 / (9 * 8) = 460 a part, and there are ten.
    assert skewness.third_moment([-2.0] * 8 + [1.0, 15.0]) == pytest.approx(4600)
    assert skewness.third_moment([2.0] * 8 + [-1.0, -15.0]) == pytest.approx(-4600)


@pytest.mark.parametrize("parts", [[], [0.0], [0.0] * 9, [-1, 0, 1] * 9, [-30, *[-1, 1] * 20, 30]])
def test_what_is_not_skewed_has_none(parts):
    assert skewness.third_moment(np.array(parts, float)) == 0


def test_one_far_value_among_symmetric_ones_is_no_skewness():
    rng = np.random.default_rng(0)
    parts = np.concatenate([rng.normal(size=60), [12.0]])
    assert skewness.third_moment(parts - parts.mean()) == 0


def decided(draw, tables=400, prompts=60, effect=0.0):
    """In how many tables a difference, of 0 but for ``effect``, is called one."""
    rng, names = np.random.default_rng(0), tuple(map(str, range(prompts)))
    count = 0
    for _ in range(tables):
        base = rng.normal(size=prompts) + 0.05 * rng.normal(size=(3, prompts))
        other = base + draw(rng, prompts) + effect + 0.1 * rng.normal(size=(3, prompts))
        one, two = (Measured((0, 1, 2), names, values, names) for values in (other, base))
        found = difference(one, two)
        count += found.decision.p() <= 0.05
        low, high = found.estimate.low, found.estimate.high
        assert (found.decision.p() <= 0.05) == (low > 0 or high < 0)
    return count


def test_skewed_differences_are_called_findings_as_seldom_as_others():
    # Student's t alone does so in 10% of such tables.
    assert decided(lambda rng, n: rng.lognormal(0, 1, size=n) - np.exp(0.5)) <= 30  # 5% are 20 of 400


def test_symmetric_differences_are_found_as_often_as_by_students_t(monkeypatch):
    for draw in (lambda rng, n: rng.normal(size=n), lambda rng, n: rng.standard_t(3, size=n)):
        found = decided(draw, 200, effect=0.4)
        with monkeypatch.context() as patch:
            patch.setattr("dfilter.leaderboard.differences.third_moment", lambda parts: 0.0)
            assert 0 <= decided(draw, 200, effect=0.4) - found <= 6
