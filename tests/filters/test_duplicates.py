from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.errors import SettingsError
from dfilter.filters.duplicates import Duplicates
from dfilter.pool import Pool
from dfilter.sample import faults_kept, generate
from dfilter.types import Scores


@dataclass(frozen=True)
class Angles:
    """A vector at the angle, in degrees, with which a response begins."""

    def spec(self) -> Mapping[str, str]:
        return {"name": "angles"}

    def compute(self, rows: Sequence) -> np.ndarray:
        angles = np.radians([float(row.response.split()[0]) for row in rows])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rows_of(*responses: str) -> Dataset:
    lines = [{"instruction": "Ask", "output": text} for text in responses]
    return Dataset.from_rows(lines)


# cos 10 = 0.985, cos 20 = 0.940: at 0.95 rows 10 degrees apart are near, rows 20 degrees apart are not.
CHAIN = rows_of("0 a", "10 bbb", "20 cc", "90 d", "0 a", "95 e")


def test_a_row_leaves_only_when_near_to_one_that_stays() -> None:
    scores = Duplicates(embedding=Angles()).score(Pool(CHAIN))
    # 10 is near 0; 20 is near 10, which left, and not near 0: it stays.
    assert np.isnan(scores.values).tolist() == [False, True, False, False, True, True]
    assert list(scores.reasons) == [
        "repeats no row that stays",
        "near duplicate of '0' (cosine 0.985)",
        "repeats no row that stays",
        "repeats no row that stays",
        "says the same as '0'",
        "near duplicate of '3' (cosine 0.996)",
    ]
    assert scores.facts == {"exact_duplicates": 1, "near_duplicates": 2}


def test_the_longest_of_like_rows_stays() -> None:
    scores = Duplicates(prefer="longest", embedding=Angles()).score(Pool(CHAIN))
    # 10 has the longest response and takes 0 and 20 with it.
    assert np.isnan(scores.values).tolist() == [True, False, True, False, True, True]
    assert scores.values[1] == len("10 bbb")


def test_the_scores_of_the_step_before_decide_and_are_passed_on() -> None:
    prior = Scores(np.array([1.0, 2, 3, -4, 1, -3]))
    scores = Duplicates(prefer="prior", embedding=Angles()).score(Pool(CHAIN, prior=prior))
    # 20 is the best and takes 10 along, but not 0; of 90 and 95 the second was better.
    assert np.isnan(scores.values).tolist() == [False, True, False, True, True, False]
    assert scores.values[[0, 2, 5]].tolist() == [1, 3, -3]
    with pytest.raises(SettingsError, match="needs a step before"):
        Duplicates(prefer="prior").score(Pool(CHAIN))


def test_rows_without_a_prior_score_take_nobody_with_them() -> None:
    prior = Scores(np.array([np.nan, 2, 1, np.nan, 5, 0]))
    scores = Duplicates(prefer="prior", embedding=Angles()).score(Pool(CHAIN, prior=prior))
    assert scores.reasons[0] == scores.reasons[3] == "had no score"
    assert np.isnan(scores.values).tolist() == [True, True, False, True, False, False]


def test_only_exact_duplicates_need_no_embedding() -> None:
    scores = Duplicates(near=False).score(Pool(CHAIN))
    assert np.isnan(scores.values).tolist() == [False, False, False, False, True, False]
    assert Duplicates(near=False).deterministic


def test_preferring_the_longest_does_not_depend_on_the_order_of_the_rows() -> None:
    made = Duplicates(prefer="longest", embedding=Angles())
    order = np.array([5, 1, 4, 0, 3, 2])
    straight, shuffled = made.score(Pool(CHAIN)).values, made.score(Pool(CHAIN.take(order))).values
    assert np.array_equal(straight[order], shuffled, equal_nan=True)
    assert made.equivariant
    assert not Duplicates().equivariant


def test_pairs_across_clusters_are_not_looked_for() -> None:
    rows = rows_of("0 a", "1 b", "180 c", "181 d")
    both = Duplicates(embedding=Angles(), clusters=2).score(Pool(rows))
    assert np.isnan(both.values).tolist() == [False, True, False, True]
    apart = Duplicates(embedding=Angles(), clusters=4).score(Pool(rows))
    assert not np.isnan(apart.values).any()


def test_neighbouring_clusters_are_looked_at_when_asked_to() -> None:
    rows = rows_of("0 a", "1 b", "180 c", "181 d")
    joined = Duplicates(embedding=Angles(), clusters=4, neighbours=3).score(Pool(rows))
    assert np.isnan(joined.values).tolist() == [False, True, False, True]


@given(st.lists(st.integers(0, 359), min_size=1, max_size=40), st.sampled_from([0.3, 0.9, 0.99]))
@settings(max_examples=25)
def test_what_stays_is_what_the_plain_walk_keeps(angles: list[int], threshold: float) -> None:
    rows = rows_of(*[f"{angle} {place}" for place, angle in enumerate(angles)])
    kept: list[int] = []
    for place, angle in enumerate(angles):
        if not any(np.cos(np.radians(angle - angles[k])) > threshold + 1e-5 for k in kept):
            kept.append(place)
    values = Duplicates(threshold=threshold, embedding=Angles()).score(Pool(rows)).values
    assert np.flatnonzero(~np.isnan(values)).tolist() == kept


def test_settings_out_of_range_are_refused_together() -> None:
    with pytest.raises(SettingsError) as error:
        Duplicates(threshold=1.5, clusters=-1, neighbours=-1)
    assert len(error.value.findings) == 3


def test_every_planted_exact_duplicate_is_found() -> None:
    sample = generate(400, seed=3)
    rows = Dataset.from_rows(sample.pool)
    values = Duplicates(near=False).score(Pool(rows)).values
    kept = [rows.ids[i] for i in np.flatnonzero(~np.isnan(values))]
    entries = {entry.fault: entry for entry in faults_kept(sample.truth, kept)}
    assert entries["duplicate"].kept == 0
    assert len(kept) == 400 - entries["duplicate"].pool
