"""Agglomerative clustering finds what stands apart, over a graph that never holds n^2 distances."""

from __future__ import annotations

import numpy as np
import pytest

from dfilter.cluster import agglomerative as module
from dfilter.cluster.agglomerative import agglomerative, connected, neighbour_graph


def blobs(per: int, seed: int = 0, far: float = 20.0):
    rng = np.random.default_rng(seed)
    centres = far * np.eye(4)
    truth = np.repeat(np.arange(4), per)
    shuffled = rng.permutation(len(truth))
    rows = (centres[truth] + rng.standard_normal((len(truth), 4))).astype(np.float32)
    return rows[shuffled], truth[shuffled]


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("linkage", ["ward", "average", "complete", "single"])
def test_groups_that_stand_apart_are_found(metric, linkage):
    rows, truth = blobs(60)
    labels = agglomerative(rows, 4, metric=metric, linkage=linkage)
    assert same_partition(labels, truth)
    assert labels[0] == 0
    assert [int(np.flatnonzero(labels == c)[0]) for c in range(4)] == sorted(
        int(np.flatnonzero(labels == c)[0]) for c in range(4)
    )


def test_with_every_edge_it_is_scikit_learns_own():
    from sklearn.cluster import AgglomerativeClustering

    rows = np.random.default_rng(1).standard_normal((80, 5)).astype(np.float32)
    labels = agglomerative(rows, 7, neighbours=79, metric="euclidean")
    assert same_partition(labels, AgglomerativeClustering(7).fit_predict(rows))


def test_the_graph_is_that_of_brute_force():
    rows = np.random.default_rng(2).standard_normal((150, 6)).astype(np.float32)
    distance = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = np.zeros((150, 150), bool)
    np.put_along_axis(expected, distance.argsort(axis=1)[:, :5], True, axis=1)
    np.testing.assert_array_equal(neighbour_graph(rows, 5).toarray() > 0, expected | expected.T)


def test_parts_are_joined_by_their_nearest_rows():
    rows = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0], [31.0]], np.float32)
    graph = neighbour_graph(rows, 1)
    joined = connected(rows, graph).toarray()
    assert joined[2, 3] == joined[3, 2] == joined[4, 5] == 1
    assert joined.sum() == graph.sum() + 4


def test_k_of_one_and_of_n():
    rows, _ = blobs(5)
    assert set(agglomerative(rows, 1).tolist()) == {0}
    assert agglomerative(rows, 20).tolist() == list(range(20))


def test_equal_rows_and_rows_of_zeros_are_clustered():
    rows = np.repeat(np.array([[0, 0], [1, 0], [0, 3]], np.float32), 20, axis=0)
    labels = agglomerative(rows, 3, neighbours=3)
    assert same_partition(labels, np.repeat(np.arange(3), 20))


def test_too_many_rows_are_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    with pytest.raises(ValueError, match=r"at most 10 rows, found 11\. Use K-Means"):
        agglomerative(np.ones((11, 2), np.float32), 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 9}, "there are 8 rows"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"linkage": "centroid"}, "known are 'ward'"),
        ({"metric": "dot"}, "known are 'cosine'"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    rows, _ = blobs(2)
    with pytest.raises(ValueError, match=sentence):
        agglomerative(rows, **{"k": 2, **options})


def test_a_row_that_is_not_finite_is_refused():
    rows, _ = blobs(3)
    rows[4, 1] = np.nan
    with pytest.raises(ValueError, match="Row 4 holds NaN"):
        agglomerative(rows, 2)
