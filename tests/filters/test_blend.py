from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter import registry
from dfilter.data.dataset import Dataset
from dfilter.errors import SettingsError
from dfilter.filters.blend import Blend, Part, ranks
from dfilter.pool import Pool
from dfilter.types import Scores

ROWS = Dataset.from_rows([{"instruction": f"Ask {i}", "output": "x" * (i + 1)} for i in range(4)])
TABLE = {
    "a": [4.0, 3.0, 2.0, 1.0],
    "b": [1.0, 9.0, 5.0, 5.0],
    "gap": [1.0, np.nan, 1.0, 1.0],
    "low": [-1.0, 1, 1, 1],
}


@dataclass(frozen=True)
class Fixed:
    column: str = "a"

    def score(self, pool: Pool) -> Scores:
        assert pool.wanted == len(pool.rows)
        return Scores(np.array(TABLE[self.column]), facts={"column": self.column})


@pytest.fixture(autouse=True)
def _fixed_is_registered(monkeypatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Fixed if name == "fixed" else load(kind, name))


def blend(by: str, *columns: str, weights: tuple[float, ...] = ()) -> Scores:
    parts = tuple(
        Part("fixed", weight, {"column": column})
        for column, weight in zip(columns, weights or (1.0,) * len(columns), strict=True)
    )
    return Blend(parts, by).score(Pool(ROWS, wanted=1))


def test_mean_rank_by_hand() -> None:
    # a: 3 2 1 0 rows surpassed; b: 0 3 1.5 1.5 of them; each out of 3, then the mean.
    assert blend("rank", "a", "b").values == pytest.approx(np.array([3, 5, 2.5, 1.5]) / 6)


def test_product_and_sum_by_hand_with_weights() -> None:
    assert blend("product", "a", "b", weights=(2, 1)).values.tolist() == [16, 81, 20, 5]
    assert blend("sum", "a", "b", weights=(2, 1)).values.tolist() == [9, 15, 9, 7]


def test_who_abstains_in_one_abstains_and_is_not_counted_among_the_ranks() -> None:
    scores = blend("rank", "a", "gap")
    assert np.isnan(scores.values).tolist() == [False, True, False, False]
    assert scores.values[[0, 2, 3]] == pytest.approx([(1 + 0.5) / 2, (0.5 + 0.5) / 2, (0 + 0.5) / 2])
    assert scores.reasons[1] == "fixed-1 3, fixed-2 abstained"


def test_a_part_without_weight_only_lends_its_abstentions() -> None:
    scores = blend("sum", "a", "gap", weights=(1, 0))
    assert scores.values[[0, 2, 3]].tolist() == [4, 2, 1]
    assert np.isnan(scores.values[1])


def test_a_product_of_negative_scores_is_refused() -> None:
    with pytest.raises(SettingsError, match="'fixed-2' gives negative scores \\(down to -1\\)"):
        blend("product", "a", "low")


def test_all_mistakes_of_the_parts_are_told_when_the_blend_is_made() -> None:
    with pytest.raises(SettingsError) as error:
        Blend((Part("longest", 0.0, {"unit": "pages"}), Part("longes", 0.0)))
    text = str(error.value)
    assert "pages" in text
    assert "Did you mean 'longest'" in text
    assert "weights of a blend are all 0" in text


def test_parts_come_from_a_table_as_in_a_strategy() -> None:
    table = {
        "by": "product",
        "parts": [{"filter": "longest", "settings": {"unit": "characters"}, "weight": 2}],
    }
    made = registry.create("filters", "blend", table)
    assert made.score(Pool(ROWS)).values.tolist() == [1, 4, 9, 16]
    assert made.deterministic
    assert not Blend((Part("random"),)).deterministic


def test_a_blend_of_nothing_says_how_to_name_parts() -> None:
    with pytest.raises(SettingsError, match=r"settings.parts = \["):
        Blend().score(Pool(ROWS))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_ranks_are_the_share_of_other_rows_surpassed_ties_counted_half(values: list[int]) -> None:
    found = ranks(np.array(values, float))
    for value, rank in zip(values, found, strict=True):
        below = sum(v < value for v in values) + (values.count(value) - 1) / 2
        assert rank == pytest.approx(below / max(1, len(values) - 1))
