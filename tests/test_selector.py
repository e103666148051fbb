"""The selector: exact budgets, one answer for every order of the rows, quotas that sum, honest draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dfilter.errors import SettingsError
from dfilter.selector import (
    Budget,
    Choice,
    as_groups,
    choose,
    quotas,
    ranking,
    seeded,
    told_apart,
    within_tokens,
)

Floats = NDArray[np.float64]

score = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e9, 1e9), st.just(math.nan))


@st.composite
def pools(draw: st.DrawFn) -> tuple[Floats, NDArray[np.uint8], list[str], NDArray[np.int64]]:
    """Scores with many ties and abstentions, contents with many copies, unique ids, groups."""
    n = draw(st.integers(0, 60))
    values = np.array(draw(st.lists(score, min_size=n, max_size=n)), np.float64)
    content = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    keys = np.array([_key(c) for c in content], np.uint8).reshape(n, 16)
    ids = [f"row{i:03d}" for i in draw(st.permutations(range(n)))]
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64)
    return values, keys, ids, groups


def _key(content: int) -> NDArray[np.uint8]:
    return np.random.default_rng(content).integers(0, 256, 16, np.uint8)


def rows_of(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], list[str]]:
    return np.random.default_rng(seed).integers(0, 256, (n, 16), np.uint8), [str(i) for i in range(n)]


# The budget


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1000", 1000),
        ("9k", 9000),
        ("1.5k", 1500),
        ("2m", 2_000_000),
        ("5%", 2600),
        ("0.5%", 260),
        (" 7 ", 7),
        (250, 250),
    ],
)
def test_budget_in_rows(text: str, rows: int) -> None:
    assert Budget.parse(text).rows(52_002) == rows


def test_budget_in_tokens() -> None:
    for text, tokens in {"200ktok": 200_000, "5tok": 5, "1.5M tokens": 1_500_000}.items():
        budget = Budget.parse(text)
        assert (budget.unit, budget.amount) == ("tokens", tokens)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "0%", "101%", "5%tok", "1.5", "1.0005k", "many", "1e3", "k", "9" * 400, "٣", "nan"],
)
def test_budget_of_another_form_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match="Budget"):
        Budget.parse(text)


@example(2900, 100)
@given(st.integers(1, 10_000), st.integers(1, 10**9))
def test_a_share_rounds_down_and_is_at_least_one_row(hundredths: int, usable: int) -> None:
    text = f"{hundredths / 100:.2f}%"
    assert Budget.parse(text).rows(usable) == max(1, math.floor(Fraction(hundredths, 10_000) * usable))


# The ranking


@given(pools(), st.integers(-(2**40), 2**40))
def test_ranking_holds_every_scored_row_once_best_first(pool, seed: int) -> None:
    values, keys, ids, _ = pool
    ranked = ranking(values, keys, ids, seed=seed)
    assert sorted(ranked.tolist()) == np.flatnonzero(~np.isnan(values)).tolist()
    assert (np.diff(values[ranked]) <= 0).all()


@given(pools(), st.integers(0, 99), st.sampled_from([None, 1.0, 0.01]), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pool, seed: int, sample: float | None, random) -> None:
    values, keys, ids, groups = pool
    order = np.array(random.sample(range(len(ids)), len(ids)), np.int64)
    straight = ranking(values, keys, ids, seed=seed, sample=sample)
    shuffled = ranking(values[order], keys[order], [ids[i] for i in order], seed=seed, sample=sample)
    assert [ids[i] for i in straight] == [ids[order[i]] for i in shuffled]
    for budget in (1, len(ids) // 2, len(ids)):
        ours = choose(straight, budget, groups=groups, tau=2)
        theirs = choose(shuffled, budget, groups=groups[order], tau=2)
        assert [ids[i] for i in ours] == [ids[order[i]] for i in theirs]


def test_ties_fall_by_content_and_seed_not_by_position() -> None:
    keys, ids = rows_of(400)
    scores = np.zeros(400)
    ranked = ranking(scores, keys, ids, seed=0)
    assert abs(np.corrcoef(ranked, np.arange(400))[0, 1]) < 0.2
    for seed in range(1, 6):
        other = ranking(scores, keys, ids, seed=seed)
        assert len(set(other[:100].tolist()) & set(ranked[:100].tolist())) < 50  # 25 are expected
    assert (ranking(scores, keys, ids[::-1], seed=0) == ranked).all()  # ids say nothing about other rows


def test_identical_rows_fall_by_id() -> None:
    keys, _ = rows_of(1)
    keys = np.repeat(keys, 4, axis=0)
    for seed in range(5):
        ranked = ranking(np.zeros(4), keys, ["b", "d", "a", "c"], seed=seed)
        assert ranked.tolist() == [2, 0, 3, 1]


def test_identical_rows_with_other_scores_fall_by_score() -> None:
    keys, _ = rows_of(1)
    ranked = ranking(np.array([1.0, 3.0, 2.0]), np.repeat(keys, 3, axis=0), ["a", "b", "c"], seed=0)
    assert ranked.tolist() == [1, 2, 0]


def test_half_of_a_key_tells_rows_apart() -> None:
    """Rows whose keys agree in their first or last eight bytes are other rows and hash otherwise."""
    keys = np.zeros((3, 16), np.uint8)
    keys[1, 0], keys[2, 15] = 1, 1
    first, second = seeded(keys, 0)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 3
    assert len({*second.tolist()}) == 3


# The choice


@given(pools(), st.integers(1, 70), st.sampled_from([1.0, 2.0, 3.0, math.inf]), st.booleans())
def test_the_budget_is_exact_and_the_choice_a_subset_in_rank_order(
    pool, budget: int, tau: float, grouped: bool
) -> None:
    values, keys, ids, groups = pool
    ranked = ranking(values, keys, ids, seed=0)
    kept = choose(ranked, budget, groups=groups if grouped else None, tau=tau)
    assert len(kept) == min(budget, len(ranked))
    places = {row: place for place, row in enumerate(ranked.tolist())}
    assert [places[row] for row in kept.tolist()] == sorted({places[row] for row in kept.tolist()})


@given(pools(), st.integers(1, 70), st.sampled_from([1.0, 2.0, math.inf]))
def test_each_group_gives_its_best_rows(pool, budget: int, tau: float) -> None:
    values, keys, ids, groups = pool
    ranked = ranking(values, keys, ids, seed=0)
    kept = set(choose(ranked, budget, groups=groups, tau=tau).tolist())
    for group in range(5):
        theirs = [row for row in ranked.tolist() if groups[row] == group]
        number = sum(row in kept for row in theirs)
        assert {row for row in theirs if row in kept} == set(theirs[:number])


def slow_quotas(sizes: list[int], budget: int, tau: float) -> list[Fraction]:
    """Fill groups at one common rate until the budget is spent; a full group stops (exact for tau 1, inf)."""
    weights = [Fraction(n) if tau == 1 else Fraction(bool(n)) for n in sizes]
    share = [Fraction(0)] * len(sizes)
    left = Fraction(min(budget, sum(sizes)))
    open_ = [i for i, n in enumerate(sizes) if n]
    while left and open_:
        total = sum(weights[i] for i in open_)
        step = min(min((sizes[i] - share[i]) / weights[i] for i in open_), left / total)
        for i in open_:
            share[i] += step * weights[i]
        left -= step * total
        open_ = [i for i in open_ if share[i] < sizes[i]]
    return share


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.integers(1, 250),
    st.sampled_from([1.0, math.inf]),
)
def test_quotas_agree_with_pouring_by_hand(sizes: list[int], budget: int, tau: float) -> None:
    found = quotas(np.array(sizes), budget, tau).tolist()
    exact = slow_quotas(sizes, budget, tau)
    assert sum(found) == min(budget, sum(sizes))
    assert all(math.floor(share) <= n <= math.ceil(share) for n, share in zip(found, exact, strict=True))
    rest = [share - math.floor(share) for share in exact]
    up = [r for n, share, r in zip(found, exact, rest, strict=True) if n > share]
    down = [r for n, share, r in zip(found, exact, rest, strict=True) if n < share]
    assert not up or not down or min(up) >= max(down)  # the largest remainders


def test_quotas_by_hand() -> None:
    """LIMA's tau = 3: 1, 8 and 27 rows weigh 1, 2 and 3."""
    assert quotas(np.array([1, 8, 27]), 6, 3).tolist() == [1, 2, 3]
    # 3, 6 and 9 are due, but the first group holds one row; the 17 left are shared 6.8 to 10.2.
    assert quotas(np.array([1, 8, 27]), 18, 3).tolist() == [1, 7, 10]
    assert quotas(np.array([100, 400]), 30, 2).tolist() == [10, 20]
    assert quotas(np.array([10, 90]), 10, 1).tolist() == [1, 9]
    assert quotas(np.array([10, 90, 0]), 11, math.inf).tolist() == [6, 5, 0]
    assert quotas(np.array([3, 3]), 100, 1).tolist() == [3, 3]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=40), st.integers(1, 10**8), st.floats(1, 50))
def test_quotas_sum_and_fit_at_any_size(sizes: list[int], budget: int, tau: float) -> None:
    found = quotas(np.array(sizes), budget, tau)
    assert found.sum() == min(budget, sum(sizes))
    assert (found >= 0).all()
    assert (found <= np.array(sizes)).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 120))
def test_tokens_are_the_longest_prefix_within_the_budget(tokens: list[int], budget: int) -> None:
    ranked = np.random.default_rng(0).permutation(len(tokens))
    kept = within_tokens(ranked, np.array(tokens), budget).tolist()
    assert kept == ranked[: len(kept)].tolist()
    assert sum(tokens[row] for row in kept) <= budget
    if len(kept) < len(tokens):
        assert sum(tokens[row] for row in ranked[: len(kept) + 1]) > budget


def test_groups_of_a_column_are_numbered_by_their_text() -> None:
    assert as_groups(["b", "a", None, "b", 3]).tolist() == [3, 2, 1, 3, 0]


# The draw


@given(st.integers(0, 3))
def test_a_draw_at_low_temperature_is_the_ranking(start: int) -> None:
    keys, ids = rows_of(50, start)
    scores = np.random.default_rng(start).permutation(50).astype(np.float64)
    cold = ranking(scores, keys, ids, seed=1, sample=1e-6)
    assert (cold == ranking(scores, keys, ids, seed=1)).all()


def test_draws_follow_the_weights_without_replacement() -> None:
    """Two of four rows with weights 1, 2, 3, 4: the chance of each pair, by hand, over 8,000 seeds."""
    keys, ids = rows_of(4)
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    tries = 8_000
    first = np.zeros(4)
    pair = np.zeros((4, 4))
    for seed in range(tries):
        a, b, *_ = ranking(np.log(weights), keys, ids, seed=seed, sample=1.0).tolist()
        first[a] += 1
        pair[a, b] += 1
    chance = weights / 10
    assert np.abs(first / tries - chance).max() < 4 * math.sqrt(0.25 / tries)
    expected = chance[:, None] * weights[None, :] / (10 - weights[:, None])
    np.fill_diagonal(expected, 0)
    assert np.abs(pair / tries - expected).max() < 4 * math.sqrt(0.25 / tries)


def test_temperature_flattens_the_draw() -> None:
    keys, ids = rows_of(2)
    hot = (
        sum(ranking(np.array([0.0, 2.0]), keys, ids, seed=s, sample=2.0)[0] == 1 for s in range(4000)) / 4000
    )
    assert abs(hot - math.e / (1 + math.e)) < 0.03


def test_copies_of_a_row_are_drawn_apart() -> None:
    """A draw of half of 2,000 rows that are 1,000 rows twice keeps one copy of about every second row."""
    keys, _ = rows_of(1000)
    twice = np.concatenate([keys, keys])
    ids = [str(i) for i in range(2000)]
    kept = ranking(np.zeros(2000), twice, ids, seed=0, sample=1.0)[:1000]
    lone = 1000 - 2 * (1000 - len(np.unique(kept % 1000)))
    assert abs(lone - 500) < 80


def test_copies_are_told_apart_by_id_alone() -> None:
    keys, _ = rows_of(3)
    keys = keys[[0, 1, 0, 2, 0]]
    told = told_apart(keys, ["e", "d", "c", "b", "a"])
    assert len({row.tobytes() for row in told}) == 5
    assert (told[[1, 3]] == keys[[1, 3]]).all()
    assert (told[4] == keys[4]).all()  # the copy with the first id keeps the key
    order = np.array([4, 0, 3, 1, 2])
    assert (told_apart(keys[order], [["e", "d", "c", "b", "a"][i] for i in order]) == told[order]).all()


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"tau": 0.5}, {"tau": math.nan}, {"temperature": 0.0}, {"temperature": math.nan}):
        with pytest.raises(SettingsError, match="must be"):
            Choice(**wrong)


def test_all_rows_are_ranked_where_the_choice_may_need_them() -> None:
    rows, share, tokens = Budget.parse("10"), Budget.parse("5%"), Budget.parse("9tok")
    assert not Choice().needs_all_ranks(rows)
    assert not Choice().needs_all_ranks(share)
    assert Choice().needs_all_ranks(tokens)
    assert Choice().needs_all_ranks(None)
    assert Choice(sample=True).needs_all_ranks(rows)
    assert Choice(quota="task").needs_all_ranks(rows)


@pytest.mark.parametrize(
    ("tokens", "budget", "prefix", "filled"),
    [
        ([40, 30, 50, 90, 20, 5, 1], 100, [0, 1], [0, 1, 4, 5, 6]),  # 70, then 90, 95 and 96 of 100
        ([90, 30, 9, 1, 1], 100, [0], [0, 2, 3]),
        ([990, 30, 4, 5], 999, [0], [0]),  # what is left is less than 1%
        ([200, 300], 100, [], []),
        ([10, 10], 100, [0, 1], [0, 1]),
    ],
)
def test_a_budget_in_tokens_is_a_prefix_or_is_filled(tokens, budget, prefix, filled) -> None:
    ranked, lengths = np.arange(len(tokens)), np.array(tokens)
    assert within_tokens(ranked, lengths, budget).tolist() == prefix
    assert within_tokens(ranked, lengths, budget, fill=True).tolist() == filled
    back = np.arange(len(tokens))[::-1]  # places in the ranking are not places in the data
    assert within_tokens(back, lengths[::-1], budget, fill=True).tolist() == [back[i] for i in filled]
