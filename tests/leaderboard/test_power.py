"""Planning: what a number of seeds and prompts can find, checked by simulation and inversion."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dfilter import outlook
from dfilter.comparison import Comparison, Evaluation, Setting
from dfilter.leaderboard import power
from dfilter.leaderboard.statistics import pooled, two_sided, two_way
from dfilter.outlook import Group


def differences(noise, k, n, effect, tables, seed=0):
    rng = np.random.default_rng(seed)
    data = (
        effect + noise.prompt * rng.normal(size=(tables, 1, n)) + noise.rest * rng.normal(size=(tables, k, n))
    )
    return data + noise.training * rng.normal(size=(tables, k, 1))


def tables(noise, k, n, strategies, count, seed=0):
    """Scores of (table, model, seed, prompt) whose differences have this noise."""
    rng = np.random.default_rng(seed)
    shape = (count, strategies + 1)
    data = noise.prompt * rng.normal(size=(*shape, 1, n)) + noise.rest * rng.normal(size=(*shape, k, n))
    return (data + noise.training * rng.normal(size=(*shape, k, 1))) / math.sqrt(2)


@pytest.mark.parametrize(
    ("noise", "strategies", "tests"),
    [
        (power.Noise(0.0, 0.3, 0.2), 1, 1),
        (power.Noise(0.01, 0.3, 0.3), 3, 3),
        (power.Noise(0.03, 0.2, 0.4), 3, 6),
    ],
)
def test_the_smallest_difference_is_found_about_eight_times_in_ten(noise, strategies, tests):
    # By the test that decides: the larger of two p, at Holm's first step.
    effect = power.smallest_difference(noise, 3, 200, power.Family(tests, strategies))
    data = tables(noise, 3, 200, strategies, 800)
    reference, peers = two_way(data[:, 0]), [two_way(data[:, i + 1]) for i in range(strategies)]
    own = two_way(data[:, 1] + effect - data[:, 0])
    worst = np.maximum(
        *(two_sided(own.mean, v, df) for v, df in ((own.variance, own.df), pooled(own, peers, reference)))
    )
    assert (worst <= 0.05 / tests).mean() == pytest.approx(0.8, abs=0.05)


def test_published_figures_without_training_noise():
    # An SD of 0.313 per prompt: 730 prompts find 3.2 points, 180 find 6.5.
    noise = power.Noise(0.0, 0.313, 0.0)
    assert power.smallest_difference(noise, 1, 730) == pytest.approx(0.032, abs=0.001)
    assert power.smallest_difference(noise, 1, 180) == pytest.approx(0.065, abs=0.001)


def test_prompts_needed_is_the_inverse():
    noise = power.Noise(0.005, 0.3, 0.2)
    for seeds in (3, 5):
        n = power.prompts_needed(0.05, noise, seeds, power.Family(4))
        assert power.smallest_difference(noise, seeds, n, power.Family(4)) <= 0.05
        assert power.smallest_difference(noise, seeds, n - 1, power.Family(4)) > 0.05


def test_prompts_cannot_make_up_for_training_noise():
    noise = power.Noise(0.05, 0.3, 0.2)
    assert power.prompts_needed(0.01, noise, 3) == 0
    few, *_, many = power.plans(0.055, noise, seeds=(3, 10))
    assert few.prompts == 0
    assert few.difference > 0.055
    assert many.prompts > 0


def test_more_comparisons_more_seeds_more_prompts():
    noise = power.TYPICAL["rate"]
    base = power.smallest_difference(noise, 3, 500)
    assert power.smallest_difference(noise, 3, 500, power.Family(6)) > base
    assert power.smallest_difference(noise, 5, 500) < base
    assert power.smallest_difference(noise, 3, 1000) < base


def test_noise_is_read_from_a_measured_difference():
    true = power.Noise(0.05, 0.3, 0.4)
    found = [power.Noise.of(two_way(table)) for table in differences(true, 6, 400, 0.0, 200)]
    for name in ("training", "prompt", "rest"):
        mean = np.sqrt(np.mean([getattr(noise, name) ** 2 for noise in found]))
        assert mean == pytest.approx(getattr(true, name), rel=0.1)
    assert math.isnan(power.Noise.of(two_way(np.random.default_rng(0).normal(size=(1, 9)))).training)


def planned(tmp_path, seeds=3):
    """The lines about power of a plan of two strategies, longest and full, and of two evaluations."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "Say {n}.", "response": "{n}"}}\n' for n in range(200)))
    evaluations = [Evaluation(name, name, {"source": str(file)}) for name in ("exact", "heldout")]
    setting = Setting(Comparison(tmp_path / "out", seeds=seeds), "", evaluations, {}, {})
    found = [Group(name, "1000", seeds, 1000) for name in ("a", "b", "random", "longest")]
    found.append(Group("full", "full", seeds, 9))
    return list(outlook._power(setting, found))


def test_a_plan_has_the_power_of_all_tests_of_its_table(tmp_path):
    lines = planned(tmp_path)
    family = power.Family(tests=6, strategies=3)
    for name, kind in (("exact", "rate"), ("heldout", "loss")):
        reach = power.smallest_difference(power.TYPICAL[kind], 3, 200, family)
        assert any(line.startswith(f"{name}: 200 prompts") and f" of {reach:.3g} " in line for line in lines)
    assert any("6 verdicts" in line for line in lines)


def test_a_plan_without_verdicts_promises_no_power(tmp_path):
    lines = planned(tmp_path, seeds=2)
    assert not any("80% power" in line for line in lines)
    assert lines[-1].startswith("Fewer than three seeds")
