"""The smallest difference that a table could have found: whose noise it has, and what keeps it infinite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.leaderboard.differences import difference, withstood
from dfilter.leaderboard.measured import Measured
from dfilter.leaderboard.reach import detectable
from dfilter.leaderboard.statistics import two_way
from dfilter.types import EvalResult


def row(tables, facts=None, which="mine"):
    """The row of a strategy in a table of (seed, prompt) values by strategy."""
    made = [
        Cell(
            name,
            "10",
            k,
            results={"m": EvalResult(tuple(map(str, range(v.size))), v, "m", True, facts or {})},
        )
        for name, values in tables.items()
        for k, v in enumerate(np.asarray(values, float))
    ]
    board = leaderboard(made, replicates=0)
    return next(r for r in board.rows if r.strategy == which), board


def scores(rng, spread, k=3, n=100):
    return spread * rng.normal(size=(k, 1)) + 0.3 * rng.normal(size=(k, n))


def test_the_noise_of_another_strategy_is_not_luck_of_this_one():
    rng, names = np.random.default_rng(0), tuple(map(str, range(100)))
    mine, reference, other = (Measured((0, 1, 2), names, scores(rng, 0.02), names) for _ in range(3))
    found, quiet = difference(mine, reference), two_way(other.values)
    luck = []
    for peer in (quiet, two_way(20 * other.values)):
        decision = withstood(found, [found.own, peer])
        luck.append(detectable(found, [found.own, peer], 1) - decision.critical(0.05, up=True))
    assert luck[0] == pytest.approx(luck[1])
    assert luck[0] == pytest.approx(0.85 * found.estimate.se, rel=0.3)


def test_the_difference_is_what_the_test_asks_for_and_the_luck_of_four_in_five():
    rng = np.random.default_rng(1)
    found = row({"random": scores(rng, 0.0, n=400), "mine": scores(rng, 0.0, n=400)})[0].random
    assert found.detectable == pytest.approx((found.high - found.low) / 2 + 0.85 * found.se, rel=0.03)


def answers(rng, rate, seeds, prompts):
    return {name: rng.random((seeds, prompts)) < rate for name in ("random", "mine")}


@pytest.mark.parametrize(
    ("seeds", "prompts", "rate", "most"), [(10, 60, 0.03, 0.06), (5, 20, 0.5, 0.3), (3, 100, 0.07, 0.2)]
)
def test_shares_of_many_seeds_do_not_need_six_whole_prompts(seeds, prompts, rate, most):
    rng, reach, found = np.random.default_rng(0), [], 0
    for _ in range(16):
        table = answers(rng, rate, seeds, prompts)
        reach.append(row(table, {"bounds": [0, 1]})[0].random.detectable)
        more = np.random.default_rng(len(reach)).random(table["mine"].shape) < reach[-1] / (1 - rate)
        found += row({**table, "mine": table["mine"] | more}, {"bounds": [0, 1]})[0].verdict == "better"
    assert 0.5 * most < np.median(reach) < most
    assert found >= 8  # of 16; 13 are expected


def test_a_share_without_room_for_the_better_is_moved_to_the_worse():
    rng = np.random.default_rng(0)
    table = answers(rng, 0.99, 3, 200)
    reach = row(table, {"bounds": [0, 1]})[0].random.detectable
    assert 1 - table["random"].mean() < reach < 0.2


def test_what_is_missing_is_named():
    rng = np.random.default_rng(0)
    facts = {"bounds": [0, 1], "null": 0.5, "against": "random"}
    tables = {}
    for at in range(8):  # of which each level of a test is an eighth
        means = 0.5 + (0.4 if at == 0 else 0.05) * np.array([[-1.0], [0.1], [0.9]])
        tables["mine" if at == 0 else f"other{at}"] = rng.random((3, 200)) < means
    found, board = row(tables, facts)
    assert found.random.detectable == math.inf
    assert found.wanting == "seeds"
    assert "(with so few seeds hardly any difference would be seen)" in board.finding
    found, board = row({"mine": rng.choice([0.0, 1.0], size=(3, 6))}, facts)
    assert found.random.detectable == math.inf
    assert found.wanting == "prompts"
    assert "(with so few prompts hardly any difference would be seen)" in board.finding
