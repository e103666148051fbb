"""Whole tables by simulation: false verdicts, coverage, and the power of the difference that is printed.

Every table goes through :func:`dfilter.leaderboard.leaderboard`. Scores vary between prompts (SD 0.25, shared
by all strategies), between prompts for one strategy (0.15) and from model to model on one prompt (0.30);
training shifts every model. Rates are the same draws, cut into right and wrong. The full counts run with
--soak and print their figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.types import EvalResult

SPREAD = float(np.hypot(np.hypot(0.25, 0.15), 0.30))  # of a score, but for training


@dataclass(frozen=True)
class World:
    strategies: int = 1
    evaluations: int = 1
    training: float = 0.0
    rate: float | None = None
    prompts: int = 200
    seeds: int = 3

    def draw(self, rng):
        """Scores of (evaluation, model, seed, prompt); the first model is random."""
        e, m, k, n = self.evaluations, self.strategies + 1, self.seeds, self.prompts
        shared = 0.25 * rng.normal(size=(e, 1, 1, n)) + 0.15 * rng.normal(size=(e, m, 1, n))
        shift = self.training * rng.normal(size=(e, m, k, 1))
        if self.rate is not None:  # so that the rates vary by as much
            shift /= stats.norm.pdf(stats.norm.ppf(self.rate)) / SPREAD
        return shared + 0.30 * rng.normal(size=(e, m, k, n)) + shift

    def board(self, scores, effect=0.0):
        """The leaderboard, with the first strategy truly off by ``effect`` in the first evaluation."""
        scores = scores.copy()
        bound = 0.0
        if self.rate is None:
            scores[0, 1] += effect
        else:
            bound = SPREAD * stats.norm.ppf(1 - self.rate)
            scores[0, 1] += bound - SPREAD * stats.norm.ppf(1 - np.clip(self.rate + effect, 1e-9, 1 - 1e-9))
        values = scores if self.rate is None else (scores > bound).astype(float)
        prompts = tuple(map(str, range(self.prompts)))
        facts = {} if self.rate is None else {"bounds": [0, 1]}
        made = [
            Cell("random" if m == 0 else f"s{m}", "1000", k, results={
                f"e{e}": EvalResult(prompts, values[e, m, k], "score", True, facts)
                for e in range(self.evaluations)
            })
            for m in range(self.strategies + 1)
            for k in range(self.seeds)
        ]  # fmt: skip
        return leaderboard(made, replicates=0)


def first(board):
    return next(r for r in board.rows if (r.metric, r.strategy) == ("e0", "s1"))


@dataclass
class Count:
    tables: int = 0
    false: int = 0
    intervals: int = 0
    covered: int = 0
    found: int = 0  # in this table, were the difference the printed one

    def __str__(self):
        return (
            f"{self.tables} tables: {self.false / self.tables:.1%} with a false verdict, coverage "
            f"{self.covered / self.intervals:.1%}, found {self.found / self.tables:.1%}"
        )


def simulate(world, tables, seed=0, *, power=True):
    rng = np.random.default_rng(seed)
    count = Count()
    for _ in range(tables):
        scores = world.draw(rng)
        board = world.board(scores)
        rows = [r for r in board.rows if r.random]
        assert all((r.p <= 0.05) == (r.verdict in {"better", "worse"}) for r in rows)
        assert all(r.random.low < r.random.high for r in rows)
        assert all(r.random.detectable > 0 and r.p > 0 for r in rows)
        count.tables += 1
        count.false += any(r.verdict in {"better", "worse"} for r in rows)
        count.intervals += len(rows)
        count.covered += sum(r.random.low <= 0 <= r.random.high for r in rows)
        if power:
            up = world.rate is None or world.rate <= 0.5  # else there is no room
            effect, word = first(board).random.detectable * (1 if up else -1), "better" if up else "worse"
            count.found += first(world.board(scores, effect)).verdict == word
    return count


def near(found, tables, share=0.8, off=0.04):
    """Whether a count of tables is compatible with a probability of ``share``, give or take ``off``."""
    low, high = (stats.binom.ppf(q, tables, p) for q, p in ((0.001, share - off), (0.999, share + off)))
    return low <= found <= high


def test_the_printed_difference_is_found_four_times_in_five():
    count = simulate(World(strategies=3, training=0.02), 60)
    assert near(count.found, count.tables)
    assert count.covered >= 0.93 * count.intervals
    assert count.false <= stats.binom.ppf(0.999, count.tables, 0.05)


def soak(world, tables=2000, *, power=True):
    count = simulate(world, tables, power=power)
    print(world, count)
    assert count.false <= 0.05 * tables
    assert count.covered >= 0.93 * count.intervals
    return count


@pytest.mark.soak
@pytest.mark.parametrize("training", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("evaluations", [1, 2])
@pytest.mark.parametrize("strategies", [1, 3, 8])
def test_two_thousand_tables(strategies, evaluations, training):
    count = soak(World(strategies, evaluations, training))
    assert 0.76 <= count.found / count.tables <= 0.84


@pytest.mark.soak
@pytest.mark.parametrize("training", [0.0, 0.01])
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98])
def test_two_thousand_tables_of_right_and_wrong(rate, training):
    soak(World(3, 1, training, rate), power=False)


@pytest.mark.soak
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98])
def test_the_printed_difference_of_rates_is_found_about_four_times_in_five(rate):
    count = simulate(World(1, 1, 0.0, rate), 500)
    print(rate, count)
    assert (
        0.72 <= count.found / count.tables <= 0.9
    )  # too much is printed near the ends rather than too little


@pytest.mark.soak
@pytest.mark.parametrize("same", [True, False], ids=["same answers by every seed", "others"])
@pytest.mark.parametrize("values", [(0, 1), (0, 0.5, 1)], ids=["no ties", "ties"])
@pytest.mark.parametrize("prompts", [2, 3, 4, 5, 10, 20])
def test_two_thousand_tables_of_symmetric_prompts(prompts, values, same):
    rng = np.random.default_rng(prompts)
    facts = {"bounds": [0, 1], "null": 0.5, "against": "random"}
    ids = tuple(map(str, range(prompts)))
    verdicts = 0
    for _ in range(2000):
        drawn = rng.choice(values, size=(1 if same else 3, prompts)).repeat(3 if same else 1, axis=0)
        made = [
            Cell("s", "10", k, results={"p": EvalResult(ids, drawn[k], "win rate", True, facts)})
            for k in range(3)
        ]
        row = leaderboard(made, replicates=0).rows[0]
        assert row.p > 0
        assert row.random.low < row.random.high
        verdicts += row.verdict in {"better", "worse"}
    print(prompts, values, same, verdicts / 2000)
    assert verdicts <= 0.05 * 2000
