"""Whatever budgets were asked for before, a selection by k-center is that of a fresh store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.filters.kcenter import Coverage, KCenter, Traversal
from dfilter.identity import kind_of
from dfilter.pool import Store
from dfilter.selection import Selection, select
from dfilter.strategy import Step, Strategy
from dfilter.types import Example

ROWS, CLUSTERS = 48, 20
METHODS, METRICS = ("kmeans", "agglomerative", "none"), ("cosine", "euclidean")


@dataclass(frozen=True)
class Written:
    """An embedding that stands in the response, as numbers."""

    def spec(self) -> Mapping[str, str]:
        return {}

    def compute(self, rows: Sequence[Example]) -> np.ndarray:
        return np.array([[float(x) for x in row.response.split()] for row in rows], np.float32)


@cache
def rows() -> Dataset:
    X = np.random.default_rng(0).normal(size=(ROWS, 3)).round(2) + 0.001
    X[40:] = X[:8]
    return Dataset.from_rows(
        [{"instruction": f"Ask {i}", "output": " ".join(map(repr, x.tolist()))} for i, x in enumerate(X)]
    )


def selected(made: KCenter, keep: int, store: Store) -> Selection:
    strategy = Strategy("spread", (Step("kcenter"),), (made,))
    return select(rows(), strategy=strategy, keep=str(keep), seed=1, store=store)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[KCenter, int], Selection]:
    """Select with a fresh store, once for each filter and budget."""

    @cache
    def afresh(made: KCenter, keep: int) -> Selection:
        return selected(made, keep, Store(tmp_path_factory.mktemp("alone")))

    return afresh


def told(selection: Selection) -> tuple[list[int], str, object]:
    """The kept rows in order, every decision as text (NaN is no equal of itself), and the facts."""
    return selection.kept.tolist(), repr(selection.decisions().to_pylist()), selection.facts


@pytest.mark.parametrize("sequences", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_sequence_of_budgets_gives_each_the_selection_of_a_fresh_store(
    tmp_path_factory: pytest.TempPathFactory, alone: Callable[[KCenter, int], Selection], sequences: int
) -> None:
    @settings(max_examples=sequences)
    @given(
        method=st.sampled_from(METHODS),
        metric=st.sampled_from(METRICS),
        budgets=st.lists(st.integers(1, ROWS), min_size=2, max_size=4),
    )
    def holds(
        method: Literal["kmeans", "agglomerative", "none"],
        metric: Literal["cosine", "euclidean"],
        budgets: list[int],
    ) -> None:
        made = KCenter(Written(), method, CLUSTERS, metric)
        folder = tmp_path_factory.mktemp("shared")
        for keep in budgets:
            assert told(selected(made, keep, Store(folder))) == told(alone(made, keep))

    holds()


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_two_budgets_below_the_clusters_and_one_above(
    method: Literal["kmeans", "agglomerative"], alone: Callable[[KCenter, int], Selection]
) -> None:
    made = KCenter(Written(), method, CLUSTERS)
    store = Store()
    for keep in (5, 10, 40):
        assert told(selected(made, keep, store)) == told(alone(made, keep))


def test_what_version_1_stored_is_not_read() -> None:
    # it lost starting rows where a smaller budget had ended among them, and stores still hold that
    made = Traversal(Written(), "cosine", None)
    assert kind_of(made, "fits").version == 2
    assert Coverage(made, 5).spec()["traversal"]["version"] == 2
