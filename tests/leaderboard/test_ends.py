"""Shares at the ends, few prompts and symmetry: nothing is certain, and p, interval and verdict agree."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.leaderboard.flips import sign_flips
from dfilter.types import EvalResult

PAIRWISE = {"bounds": [0, 1], "null": 0.5, "against": "random"}


def judged(values, strategies=1, seeds=3):
    """The row of a strategy that won, tied and lost (1, 0.5, 0) on these prompts, with each seed."""
    table = np.broadcast_to(np.asarray(values, float), (seeds, np.shape(values)[-1]))
    ids = tuple(map(str, range(table.shape[1])))
    made = [
        Cell(f"s{s}", "10", k, results={"p": EvalResult(ids, table[k], "win rate", True, PAIRWISE)})
        for s in range(strategies)
        for k in range(seeds)
    ]
    return leaderboard(made, replicates=0).rows[0]


def paired(random, mine, seeds=3, margin=None, **facts):
    made = []
    for name, values in (("random", random), ("mine", mine)):
        table = np.broadcast_to(np.asarray(values, float), (seeds, np.shape(values)[-1]))
        ids = tuple(map(str, range(table.shape[1])))
        made += [
            Cell(name, "10", k, results={"m": EvalResult(ids, table[k], "m", True, facts)})
            for k in range(seeds)
        ]
    board = leaderboard(made, margin=margin, replicates=0)
    return next(r for r in board.rows if r.strategy == "mine")


def sane(row):
    """No p of 0, no empty interval, no difference of 0 that would be found; and all say the same."""
    found = row.random
    assert row.p > 0
    assert found.low < found.high
    assert found.detectable > 0
    assert (row.p <= 0.05) == (row.verdict in {"better", "worse"})
    if row.verdict in {"better", "worse"}:
        assert found.low > 0 or found.high < 0


def test_two_of_two_prompts_won_say_nothing():
    row = judged([1, 1])
    sane(row)
    assert row.p == 0.5  # two coins fall alike every other time
    assert row.verdict == ""
    assert row.random.detectable == math.inf
    assert row.random.low < 0 < row.random.high
    assert (row.value.low, row.value.high) == (row.random.low + 0.5, row.random.high + 0.5)
    assert row.winning["all"].low < 1 < row.winning["all"].high == 2


@pytest.mark.parametrize("wins", [1, 2, 3, 4, 5, 6, 7, 20])
def test_p_of_prompts_that_are_all_won_is_at_least_that_of_coins(wins):
    row = judged([1] * wins)
    sane(row)
    assert row.p >= min(2 ** (1 - wins), 1) * (1 - 1e-9)
    assert (row.verdict == "better") == (wins >= 7)


def test_one_of_eight_decided_prompts_lost_is_no_verdict():
    # Ninety-two ties hide it from Student's t (t = 2.14, p = .035); of eight coins seven or more fall alike
    # with a probability of 18/256.
    row = judged([1] * 7 + [0] + [0.5] * 92)
    sane(row)
    assert row.p == pytest.approx(18 / 256)
    assert row.verdict == "inconclusive"


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.5])
def test_strategies_that_answer_alike_are_not_surely_alike(rate):
    values = [rate] * 40 if rate != 0.5 else [0, 1] * 20
    row = paired(values, values, margin=0.01, bounds=[0, 1])
    sane(row)
    assert row.random.low < -0.05
    assert row.random.high > 0.05
    assert row.random.detectable > 0.1
    assert row.verdict == "inconclusive"  # not equivalent within a point
    assert row.p == 1


def test_a_constant_gap_has_an_interval_and_no_gap_at_all_has_none():
    row = paired([1.5] * 30, [2.5] * 30)
    sane(row)
    assert row.verdict == "better"
    same = paired([1.5] * 30, [1.5] * 30)
    assert same.p == 1
    assert math.isnan(same.random.low)
    assert same.random.detectable != 0
    assert same.verdict == "inconclusive"


def test_one_prompt_has_the_interval_of_a_share_and_no_verdict():
    row = paired([0.0], [1.0], bounds=[0, 1])
    assert row.verdict == ""
    assert row.p == 1
    assert row.random.low < 0 < row.random.high == 1
    assert row.value.low == pytest.approx(0.2065, abs=1e-4)  # Wilson, 1 of 1
    assert row.random.detectable == math.inf


def test_mcnemar_is_what_one_seed_of_answers_comes_to():
    won, lost, both = 12, 3, 60
    random, mine = [0] * won + [1] * lost + [1] * both, [1] * won + [0] * lost + [1] * both
    wanted = stats.binomtest(lost, won + lost).pvalue
    found = sign_flips((np.array(mine) - np.array(random)) / len(mine))
    assert found.p((won - lost) / len(mine)) == pytest.approx(wanted)


@given(
    st.lists(
        st.sampled_from([-1, -0.5, -0.25, 0, 1 / 3, 0.5, 1])
        | st.integers(-1000, 1000).map(lambda x: x / 997),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None)
def test_sign_flips_are_all_signs(parts):
    parts = np.array(parts)
    found = sign_flips(parts)
    if found is None:
        assert not parts.any()
        return
    signs = np.array(list(itertools.product([1, -1], repeat=parts.size)))
    sums = np.abs(signs @ parts)
    p = (sums >= abs(parts.sum()) - 1e-9).mean()
    slack = found.slack * found.unit
    looser = (sums >= abs(parts.sum()) - 2 * slack - 1e-9).mean()
    assert p - 1e-9 <= found.p(parts.sum()) <= looser + 1e-9
    for alpha in (0.05, 0.3):
        assert (abs(parts.sum()) <= found.reach(alpha)) == (found.p(parts.sum()) > alpha)


def test_symmetric_prompts_give_few_verdicts():
    rng = np.random.default_rng(0)
    for prompts in (4, 10):
        rows = [judged(rng.choice([0, 0.5, 1], size=prompts)) for _ in range(40)]
        for row in rows:
            sane(row)
        assert sum(row.verdict in {"better", "worse"} for row in rows) <= stats.binom.ppf(0.999, 40, 0.05)


def test_identical_prompts_of_one_cluster_are_one_prompt():
    ids = tuple(map(str, range(12)))
    facts = PAIRWISE | {"clusters": [i // 4 for i in range(12)]}
    made = [
        Cell("mine", "10", k, results={"p": EvalResult(ids, np.ones(12), "w", True, facts)}) for k in range(3)
    ]
    board = leaderboard(made, replicates=0)
    assert board.rows[0].verdict == ""
    assert (
        "12 prompts in 3 clusters allow intervals but no verdicts (six clusters are needed)" in board.finding
    )


def dusty(constant, others, size=30):
    """Rows of a strategy whose values are the reference's but for rounding, beside others."""
    ids, made = tuple(map(str, range(size))), []
    near = np.nextafter(constant, np.where(np.arange(size) % 2, np.inf, -np.inf))
    for name, values in {"random": np.full(size, constant), "same": near, **others}.items():
        made += [
            Cell(name, "10", k, results={"m": EvalResult(ids, np.asarray(values, float), "m", True, {})})
            for k in range(3)
        ]
    return {row.strategy: row for row in leaderboard(made, replicates=50).rows}


@pytest.mark.parametrize("constant", [0.1, 2.0, 1e6 + 0.1, 1e-9])
def test_rounding_is_no_power_whatever_stands_beside_it(constant):
    alone = dusty(constant, {})["same"]
    for gap in (-0.05, 0.1):
        beside = dusty(constant, {"other": np.full(30, constant * (1 + gap))})
        for row in (alone, beside["same"]):
            assert row.random.value == 0
            assert math.isnan(row.random.low)
            assert math.isnan(row.random.detectable)
            assert row.p == 1
            assert row.verdict == "inconclusive"
        assert beside["same"].ranks == beside["random"].ranks
        other = beside["other"]
        sane(other)
        assert other.random.se == 0  # a constant gap varies by nothing
        assert other.verdict == ("better" if gap > 0 else "worse")


def test_what_is_small_beside_the_values_is_still_a_difference():
    rng = np.random.default_rng(0)
    row = dusty(1.0, {"other": 1 + 1e-9 * (1 + 0.1 * rng.normal(size=30))})["other"]
    sane(row)
    assert row.verdict == "better"
    assert 0.9e-9 < row.random.low < row.random.high < 1.1e-9


@pytest.mark.parametrize("facts", [{}, {"bounds": [0, 1]}])
@pytest.mark.parametrize("gap", [1e-9, -1e-6, 2e-4])
def test_an_interval_that_leaves_zero_out_does_not_look_like_zero(gap, facts):
    rng = np.random.default_rng(0)
    ids, made = tuple(map(str, range(300))), []
    for name, shift in (("random", 0.0), ("mine", gap), ("other", 0.0)):
        noise = abs(gap) * rng.normal(size=(3, 300)) * (name == "other")
        made += [
            Cell(name, "10", k, results={"m": EvalResult(ids, 0.4 + shift + noise[k], "m", True, facts)})
            for k in range(3)
        ]
    board = leaderboard(made, replicates=0)
    row = next(r for r in board.rows if r.strategy == "mine")
    assert row.verdict == ("better" if gap > 0 else "worse")
    said = re.search(r"mine \((\S+)(?: points)?, 95% interval (\S+) to ([^ )]+)\)", board.finding).groups()
    line = next(x for x in board.render(width=300).splitlines() if x.startswith("mine"))
    shown = re.search(r"([+-]\S+) \[(\S+), (\S+)\] +\S+ +(\S+)", line).groups()
    assert all(float(number) != 0 for number in said + shown)
    unseen = re.search(r"differences under (\S+)", board.finding)
    assert float(unseen.group(1)) != 0
