"""Figures of agreement, by hand and against the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dfilter.leaderboard.agreement import krippendorff_alpha
from dfilter.llm.agreement import auc, best_threshold, ranks, spearman, threshold_for
from dfilter.llm.families import family, shared_family

NAN = math.nan


def test_ranks_of_ties_are_their_mean() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, NAN, 2.0])).tolist()[:3] == [3.5, 1.0, 3.5]


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([20.0, 10, 40, 30])) == pytest.approx(0.6)
    assert math.isnan(spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])))


def _slow_alpha(ratings: np.ndarray) -> float:
    """The definition: mean squared difference within rows over that among all pairable values."""
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [u for u in units if len(u) >= 2]
    values = np.concatenate(units) if units else np.array([])
    n = len(values)
    if n < 2:
        return NAN
    within = sum(sum((a - b) ** 2 for a, b in itertools.permutations(u, 2)) / (len(u) - 1) for u in units) / n
    among = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2)) / (n * (n - 1))
    return 1 - within / among if among > 0 else NAN


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(2, 4), st.integers(1, 6)),
        elements=st.sampled_from([0, 1, 2.5, 4, 5, NAN]),
    )
)
def test_alpha_is_its_definition(ratings: np.ndarray) -> None:
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(_slow_alpha(ratings), nan_ok=True)


@given(
    arrays(np.float64, st.integers(2, 12), elements=st.sampled_from([1.0, 2, 3, 4])),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_auc_counts_pairs(scores: np.ndarray, marks: list[bool]) -> None:
    good = np.array(marks[: len(scores)])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[good] for b in scores[~good]]
    assert auc(scores, good) == pytest.approx(np.mean(pairs) if pairs else NAN, nan_ok=True)


def test_best_threshold_by_hand() -> None:
    scores = np.array([1.0, 2, 3, 4, 5])
    assert best_threshold(scores, np.array([False, False, True, True, True])) == (3.0, 1.0)


def test_threshold_for_a_share_counts_unrated_rows() -> None:
    scores = np.array([5.0, 4.5, 4, 4, NAN])
    assert threshold_for(scores, 0.4) == (4.5, 0.4)


def test_families_are_recognised_and_shared_ones_warned_about() -> None:
    assert family("meta-llama/Llama-3.1-8B") == family("vicuna-7b") == "Llama"
    assert family("gpt-4o-mini-2024-07-18") == "GPT"
    assert family("gpt-4o-mini") != family("claude-3-5-haiku")
    warning = shared_family(generates="gpt-3.5-turbo", selects=["gpt-4o"], evaluates="gpt-4.1")
    assert "GPT" in warning
    assert not shared_family(generates="claude-3", selects=["gpt-4o"], evaluates="qwen2.5")
