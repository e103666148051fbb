"""The win rate at equal length is never surer than the win rate itself; lengths that tell nothing say so."""

from __future__ import annotations

import numpy as np
import pytest

from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.agreement import JudgeHealth, judge_health
from dfilter.leaderboard.cells import Cell
from dfilter.types import EvalResult


def judged(values, gaps, seeds=3, **facts):
    ids = tuple(map(str, range(len(values))))
    facts = {"bounds": [0, 1], "null": 0.5, "against": "random", "length_difference": list(gaps)} | facts
    found = EvalResult(ids, np.array(values, float), "win rate", True, facts)
    made = [Cell("mine", "10", k, results={"p": found}) for k in range(seeds)]
    board = leaderboard(made, replicates=200)
    return board, board.rows[0]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    "values",
    [[1] * 20, [0] * 20, [0.5] * 20, [1] * 19 + [0], [0.5] * 19 + [1], [1, 0] * 10, [1] * 2, [1, 0.5]],
    ids=["won", "lost", "tied", "one lost", "one won", "even", "two", "two, one tied"],
)
def test_the_rate_at_equal_length_is_no_surer_than_the_rate(values, seeds):
    gaps = np.random.default_rng(0).normal(size=len(values)) * 50
    _, row = judged(values, gaps, seeds)
    value, low, high = row.length_controlled
    own = row.value
    assert 0 <= low <= value <= high <= 1
    assert low < high
    assert high - low >= 0.99 * min(own.high - own.low, 1)
    far = max(own.value - own.low, own.high - own.value)
    assert low <= max(value - far, 0) + 1e-12
    assert high >= min(value + far, 1) - 1e-12


def test_prompts_without_a_length_make_the_interval_wider():
    gaps = [10.0, -10.0, 5.0, -5.0] + [None] * 36
    _, row = judged([1] * 40, gaps)
    few = judged([1] * 4, gaps[:4])[1]
    assert row.length_controlled[1] == pytest.approx(few.length_controlled[1], abs=0.02)


def test_one_length_for_all_tells_nothing_of_equal_length():
    board, row = judged([1, 0, 1, 1, 0, 1, 1, 1], [30.0] * 8)
    assert row.length_controlled is None
    assert any("no rate at equal length for mine at 10" in note for note in board.notes)
    board, row = judged([1, 0, 1, 1, 0, 1, 1, 1], [0.0] * 8)
    assert row.length_controlled[0] == pytest.approx(0.75, abs=0.01)
    assert not any("no rate at equal length" in note for note in board.notes)


@pytest.mark.parametrize("first", [[1, 1, -1], [0, 0, 0], [1, 0, -1]])
@pytest.mark.parametrize("lengths", [None, [0, 0, 0], [1, -1, 0]])
def test_a_share_of_nothing_is_left_out(first, lengths):
    health = judge_health(first, first, lengths)
    said = health.describe()
    assert "nan" not in said
    assert ("longer" in said) == bool(health.unequal)
    assert ("first position" in said) == bool(health.decisive)


def test_one_is_not_many():
    said = JudgeHealth(prompts=1, consistent=1, missing=1).describe()
    assert said == "both orders agree on 100% of 1 prompt; 1 prompt lacks a verdict and is left out"
    values = [1, 0, 1, 1, 0, 1, 1, float("nan")]
    board, _ = judged(values, [1.0, 2.0] * 4)
    assert "p: 1 prompt lacks a value and is left out." in board.notes
