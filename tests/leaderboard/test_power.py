"""Planning: what a number of seeds and prompts can find, checked by simulation and inversion."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dfilter.leaderboard import power
from dfilter.leaderboard.statistics import interval, two_way


def differences(noise, k, n, effect, tables, seed=0):
    rng = np.random.default_rng(seed)
    data = (
        effect + noise.prompt * rng.normal(size=(tables, 1, n)) + noise.rest * rng.normal(size=(tables, k, n))
    )
    return data + noise.training * rng.normal(size=(tables, k, 1))


@pytest.mark.parametrize("noise", [power.Noise(0.0, 0.3, 0.2), power.Noise(0.01, 0.3, 0.3)])
def test_the_smallest_difference_is_found_about_eight_times_in_ten(noise):
    effect = power.smallest_difference(noise, 5, 300)
    low, _ = interval(two_way(differences(noise, 5, 300, effect, 1500)))
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.07)


def test_published_figures_without_training_noise():
    # An SD of 0.313 per prompt: 730 prompts find 3.2 points, 180 find 6.5.
    noise = power.Noise(0.0, 0.313, 0.0)
    assert power.smallest_difference(noise, 1, 730) == pytest.approx(0.032, abs=0.001)
    assert power.smallest_difference(noise, 1, 180) == pytest.approx(0.065, abs=0.001)


def test_prompts_needed_is_the_inverse():
    noise = power.Noise(0.005, 0.3, 0.2)
    for seeds in (3, 5):
        n = power.prompts_needed(0.05, noise, seeds, comparisons=4)
        assert power.smallest_difference(noise, seeds, n, comparisons=4) <= 0.05
        assert power.smallest_difference(noise, seeds, n - 1, comparisons=4) > 0.05


def test_prompts_cannot_make_up_for_training_noise():
    noise = power.Noise(0.05, 0.3, 0.2)
    assert power.prompts_needed(0.01, noise, 3) == 0
    few, *_, many = power.plans(0.05, noise, seeds=(3, 10))
    assert few.prompts == 0
    assert few.difference > 0.05
    assert many.prompts > 0


def test_more_comparisons_more_seeds_more_prompts():
    noise = power.TYPICAL["rate"]
    base = power.smallest_difference(noise, 3, 500)
    assert power.smallest_difference(noise, 3, 500, comparisons=6) > base
    assert power.smallest_difference(noise, 5, 500) < base
    assert power.smallest_difference(noise, 3, 1000) < base


def test_noise_is_read_from_a_measured_difference():
    true = power.Noise(0.05, 0.3, 0.4)
    found = [power.Noise.of(two_way(table)) for table in differences(true, 6, 400, 0.0, 200)]
    for name in ("training", "prompt", "rest"):
        mean = np.sqrt(np.mean([getattr(noise, name) ** 2 for noise in found]))
        assert mean == pytest.approx(getattr(true, name), rel=0.1)
    assert math.isnan(power.Noise.of(two_way(np.random.default_rng(0).normal(size=(1, 9)))).training)
