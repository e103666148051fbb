"""Estimators against hand-computed cases, slow loops, and their defining properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dfilter.leaderboard import statistics as s


def slow_two_way(table, labels):
    """The definition, with loops: vS, vP and vE of a seed-by-prompt table with clustered prompts."""
    k, n = len(table), len(table[0])
    mean = sum(map(sum, table)) / (k * n)
    seed_means = [sum(row) / n for row in table]
    prompt_means = [sum(table[i][j] for i in range(k)) / k for j in range(n)]
    names = sorted(set(labels))
    g = len(names)
    prompts = 0.0
    for name in names:
        prompts += sum(prompt_means[j] - mean for j in range(n) if labels[j] == name) ** 2
    prompts *= g / (g - 1) / n**2
    if k == 1:
        return mean, 0.0, prompts, 0.0
    seeds = sum((m - mean) ** 2 for m in seed_means) / (k - 1) / k
    rest = 0.0
    for i in range(k):
        for name in names:
            cluster = [j for j in range(n) if labels[j] == name]
            rest += sum(table[i][j] - seed_means[i] - prompt_means[j] + mean for j in cluster) ** 2
    return mean, seeds, prompts, rest / ((k - 1) * (g - 1)) * g / (k * n**2)


def test_two_way_by_hand():
    # Seed means 1 and 3: variance 2, over k = 2 gives vS = 1. Prompt means 1, 2, 3: variance 1, over n = 3.
    # The table is additive, so nothing is left over.
    way = s.two_way([[0, 1, 2], [2, 3, 4]])
    assert float(way.mean) == 2
    assert float(way.seeds) == pytest.approx(1)
    assert float(way.prompts) == pytest.approx(1 / 3)
    assert float(way.residual) == pytest.approx(0, abs=1e-15)
    assert float(way.variance) == pytest.approx(4 / 3)
    assert float(way.df) == pytest.approx((4 / 3) ** 2 / (1 / 1 + (1 / 9) / 2))
    low, high = s.interval(way)
    half = stats.t.ppf(0.975, float(way.df)) * math.sqrt(4 / 3)
    assert (float(low), float(high)) == pytest.approx((2 - half, 2 + half))


def test_training_noise_is_what_exceeds_the_residual():
    # Seed means are equal: vS = 0 < vE, so training noise is 0 and only prompts count, with n - 1 df.
    way = s.two_way([[0, 2, 4], [2, 2, 2]])
    assert float(way.residual) > 0
    assert float(way.training) == 0
    assert float(way.variance) == float(way.prompts)
    assert float(way.df) == 2


def test_the_residual_is_taken_out_of_the_seeds_by_hand():
    # Seed means 2 and 4: vS = 1. What is left over is ∓0.5, ±1, ∓0.5: 3 in squares, over (k-1)(n-1) = 2
    # and k·n = 6 that is vE = 0.25. Prompt means 1.5, 2, 5.5: variance 4.75, over 3.
    way = s.two_way([[0, 2, 4], [3, 2, 7]])
    assert float(way.residual) == pytest.approx(0.25)
    assert float(way.training) == pytest.approx(0.75)
    assert float(way.variance) == pytest.approx(0.75 + 4.75 / 3)


def test_one_seed_is_the_paired_t_interval():
    values = np.array([0.1, 0.5, -0.2, 0.9, 0.3])
    way = s.two_way(values[None])
    low, high = s.interval(way)
    wanted = stats.t.interval(0.95, 4, values.mean(), values.std(ddof=1) / math.sqrt(5))
    assert (float(low), float(high)) == pytest.approx(wanted)


tables = st.integers(1, 5).flatmap(
    lambda k: st.integers(2, 9).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.floats(-5, 5, width=32), min_size=n, max_size=n), min_size=k, max_size=k),
            st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(lambda x: len(set(x)) > 1),
        )
    )
)


@given(tables)
@settings(max_examples=150)
def test_two_way_equals_the_definition(drawn):
    table, labels = drawn
    way = s.two_way(table, labels)
    found = (float(way.mean), float(way.seeds), float(way.prompts), float(way.residual))
    assert found == pytest.approx(slow_two_way(table, labels), rel=1e-6, abs=1e-9)


@given(tables, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_order_of_seeds_and_prompts_does_not_matter(drawn, random):
    table, labels = np.array(drawn[0]), np.array(drawn[1])
    rows, columns = list(range(table.shape[0])), list(range(table.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    one, two = s.two_way(table, labels), s.two_way(table[rows][:, columns], labels[columns])
    assert float(one.variance) == pytest.approx(float(two.variance), rel=1e-9, abs=1e-12)


def test_every_prompt_twice_changes_nothing_when_clustered_and_lies_when_not():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3, 50))
    twice, labels = np.repeat(table, 2, axis=1), np.repeat(np.arange(50), 2)
    once = s.two_way(table)
    assert float(s.two_way(twice, labels).variance) == pytest.approx(float(once.variance))
    assert float(s.two_way(twice).prompts) < 0.6 * float(once.prompts)


def test_leading_axes_are_tables_of_their_own():
    data = np.random.default_rng(1).normal(size=(4, 2, 3, 7))
    many = s.two_way(data)
    assert many.mean.shape == (4, 2)
    one = s.two_way(data[3, 1])
    assert float(many.variance[3, 1]) == pytest.approx(float(one.variance))
    assert float(many.df[3, 1]) == pytest.approx(float(one.df))


@pytest.mark.parametrize(
    ("table", "labels"), [([[1.0]], None), ([[1.0, 2.0]], [0, 0]), ([[1.0, float("nan")]], None)]
)
def test_what_cannot_have_an_interval_is_refused(table, labels):
    with pytest.raises(ValueError, match=r"independent prompts|not finite"):
        s.two_way(table, labels)


def test_tail_is_students_and_has_limits_without_variance():
    assert float(s.tail(0.5, 0.04, 6)) == pytest.approx(stats.t.sf(2.5, 6))
    assert [float(s.tail(d, 0.0, 6)) for d in (-1.0, 0.0, 1.0)] == [1.0, 0.5, 0.0]
    assert float(s.two_sided(-0.5, 0.04, 6)) == pytest.approx(2 * stats.t.sf(2.5, 6))


def test_equivalence_is_two_one_sided_tests():
    # Difference 0.01, margin 0.05, standard error 0.02: the nearer end is 0.04 away, t = 2.
    assert float(s.equivalence(-0.01, 0.05, 0.0004, 30)) == pytest.approx(stats.t.sf(2, 30))
    assert float(s.equivalence(0.06, 0.05, 0.0004, 30)) > 0.5


def test_holm_by_hand():
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert s.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    with_gap = s.holm([0.01, float("nan"), 0.04])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(with_gap[1])
    assert s.holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=80)
def test_holm_rejects_what_the_step_down_rule_rejects(p):
    adjusted = s.holm(p) <= 0.05
    expected, order = [False] * len(p), sorted(range(len(p)), key=lambda i: p[i])
    for step, at in enumerate(order):
        if p[at] * (len(p) - step) > 0.05:
            break
        expected[at] = True
    assert adjusted.tolist() == expected


def test_wilson_against_published_values():
    # Newcombe 1998 (Stat Med 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = s.wilson(hits / n, n)
        assert (float(found[0]), float(found[1])) == pytest.approx((low, high), abs=5e-5)


def test_a_rate_of_zero_has_an_interval_that_prompts_not_seeds_make_narrow():
    nothing = np.zeros((3, 30))
    low, high = s.rate_interval(s.two_way(nothing))
    assert low == 0
    assert 0.08 < high < 0.15  # Wilson for 0 of 30, not for 0 of 90
    assert s.rate_interval(s.two_way(np.ones((3, 30))))[1] == 1


def test_square_and_add_without_correlation_is_the_interval_of_independent_rates():
    one = (0.6, *map(float, s.wilson(0.6, 50)))
    two = (0.48, *map(float, s.wilson(0.48, 50)))
    low, high = s.square_and_add(one, two, 0.0)
    down = math.hypot(one[0] - one[1], two[2] - two[0])
    up = math.hypot(one[2] - one[0], two[0] - two[1])
    assert (low, high) == pytest.approx((0.12 - down, 0.12 + up))
    narrow = s.square_and_add(one, two, 0.8)
    assert low < narrow[0] < 0.12 < narrow[1] < high


def test_detectable_difference_is_found_eight_times_in_ten():
    variance, df = 0.0004, 40.0
    reach = float(s.detectable(variance, df))
    draws = stats.t.rvs(df, size=40_000, random_state=3) * math.sqrt(variance) + reach
    found = (draws > float(s.quantile(df)) * math.sqrt(variance)).mean()
    assert found == pytest.approx(0.8, abs=0.01)


def test_pooled_noise_keeps_the_reference_apart():
    rng = np.random.default_rng(4)
    random = rng.normal(size=(3, 40)) + 10 * rng.normal(size=(3, 1))
    others = [rng.normal(size=(3, 40)) for _ in range(3)]
    ways = [s.two_way(other) for other in others]
    own, reference = s.two_way(others[0] - random), s.two_way(random)
    variance, df = s.pooled(own, ways, reference)
    noise = np.mean([float(w.seeds) for w in ways]) + float(reference.seeds)
    rest = np.mean([float(w.residual) for w in ways]) + float(reference.residual)
    assert float(variance) == pytest.approx(max(noise - rest, 0) + float(own.prompts))
    assert float(df) == pytest.approx(2, rel=0.05)  # nearly all of it is random's own, known from 3 seeds


def test_pooling_many_strategies_gains_degrees_of_freedom():
    rng = np.random.default_rng(5)
    models = rng.normal(size=(2, 3, 400)) + rng.normal(size=(2, 3, 1))
    own, way = s.two_way(models[1] - models[0]), s.two_way(models[1])
    one, few = s.pooled(own, [way], s.two_way(models[0]))
    six, many = s.pooled(own, [way] * 6, s.two_way(models[0]))
    assert float(one) == pytest.approx(float(six))
    assert float(many) > float(few)
    assert float(s.pooled(own, [own])[1]) >= 1


def test_bootstrap_is_fixed_by_its_seed_and_keeps_clusters_together():
    labels = [0, 0, 1, 2, 2, 2]
    one, two = s.resample(3, labels, 50, seed=7), s.resample(3, labels, 50, seed=7)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert one[0].sum(1) == pytest.approx(np.ones(50))
    assert one[1].sum(1) == pytest.approx(np.ones(50))
    assert np.array_equal(one[1][:, 0], one[1][:, 1])
    assert np.array_equal(one[1][:, 3], one[1][:, 5])


def test_bootstrap_shows_the_whole_variance_of_few_seeds():
    seeds = np.array([1.0, 2.0, 6.0])
    weights, _ = s.resample(3, range(10), 20_000, seed=0)
    assert (weights @ seeds).var() == pytest.approx(seeds.var(ddof=1) / 3, rel=0.05)


def test_ranks_are_certain_where_models_are_apart_and_open_where_they_are_not():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, 1, 300))
    tables = base + 0.3 * rng.normal(size=(4, 3, 300)) + np.array([5.0, 0.0, 0.0, -5.0])[:, None, None]
    ranks = s.rank_intervals(tables, higher_is_better=True)
    assert ranks[0].tolist() == [1, 1]
    assert ranks[3].tolist() == [4, 4]
    assert ranks[1].tolist() == ranks[2].tolist() == [2, 3]
    assert s.rank_intervals(tables, higher_is_better=False)[0].tolist() == [4, 4]


def test_a_model_that_lacks_a_seed_is_still_ranked():
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2, 3, 100)) + np.array([3.0, 0.0])[:, None, None]
    tables[0, 2] = np.nan
    assert s.rank_intervals(tables, higher_is_better=True).tolist() == [[1, 1], [2, 2]]
