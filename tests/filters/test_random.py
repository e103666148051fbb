from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.filters.full import Full
from dfilter.filters.random import Random
from dfilter.pool import Pool
from dfilter.sample import generate
from dfilter.selector import ranking

ROWS = Dataset.from_rows(generate(600, seed=1).pool)


def drawn(rows: Dataset, seed: int, count: int) -> list[str]:
    scores = Random().score(Pool(rows, seed=seed)).values
    return [rows.ids[int(i)] for i in ranking(scores, rows.keys, rows.ids, seed=seed)[:count]]


@given(st.permutations(range(40)), st.integers(-3, 2**40))
@settings(max_examples=20)
def test_the_same_rows_are_drawn_whatever_their_order(order: list[int], seed: int) -> None:
    rows = ROWS.take(np.arange(40))
    assert drawn(rows, seed, 10) == drawn(rows.take(np.array(order)), seed, 10)


def test_a_larger_budget_adds_to_a_smaller_one_and_seeds_differ() -> None:
    assert set(drawn(ROWS, 3, 50)) < set(drawn(ROWS, 3, 80))
    assert set(drawn(ROWS, 3, 50)) != set(drawn(ROWS, 4, 50))


def test_scores_are_uniform_and_seeds_independent() -> None:
    scores = np.stack([Random().score(Pool(ROWS, seed=seed)).values for seed in range(60)])
    assert ((scores >= 0) & (scores < 1)).all()
    # Kolmogorov-Smirnov at 0.1% for 600 rows: 1.95 / sqrt(600).
    assert np.abs(np.sort(scores[0]) - (np.arange(600) + 0.5) / 600).max() < 0.08
    # Correlations of independent seeds scatter by 1 / sqrt(600) = 0.041.
    between = np.corrcoef(scores)[np.triu_indices(60, 1)]
    assert 0.037 < between.std() < 0.045


def test_every_row_is_drawn_equally_often() -> None:
    rows = ROWS.take(np.arange(30))
    times = np.zeros(30)
    for seed in range(600):
        top = np.argsort(-Random().score(Pool(rows, seed=seed)).values)[:10]
        times[top] += 1
    # 600 draws of 10 of 30: mean 200, standard deviation 11.5.
    assert np.abs(times - 200).max() < 5 * 11.5


def test_identical_rows_are_drawn_independently_of_each_other() -> None:
    twins = Dataset.from_rows([{"id": name, "instruction": "Ask", "output": "Same"} for name in ("a", "b")])
    scores = np.array([Random().score(Pool(twins, seed=seed)).values for seed in range(400)])
    # Both, one or none above a half: a quarter, a half, a quarter of 400 seeds.
    both = (scores > 0.5).all(axis=1).sum()
    assert abs(both - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)
    shuffled = Random().score(Pool(twins.take(np.array([1, 0])), seed=3)).values
    assert shuffled.tolist() == scores[3][::-1].tolist()


def test_full_gives_every_row_the_same_score() -> None:
    assert (Full().score(Pool(ROWS)).values == 0).all()


def test_alpaca_draw_of_9229_is_reproducible_and_differs_between_seeds(test_data) -> None:
    lines = json.loads((test_data / "alpaca" / "alpaca_data.json").read_text())[::10]
    rows = Dataset.from_rows(lines)
    draws = [drawn(rows, seed, 922) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    # Two independent draws of 922 of 5,200 share about 164 rows.
    assert 110 < len(set(draws[0]) & set(draws[2])) < 220
