"""K-Means: Lloyd's algorithm, the same bytes whatever it is told about speed."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.cluster import kmeans as module
from dfilter.cluster import products
from dfilter.cluster.kmeans import kmeans, nearest_rows


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(n, d, seed, spread=0.3):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(n // 10, 1), d))
    return (centres[rng.integers(len(centres), size=n)] + spread * rng.standard_normal((n, d))).astype(
        np.float32
    )


def plain_lloyd(X, centroids, iterations, metric):
    """Labels and means, over and over, in float64."""
    X, C = X.astype(np.float64), centroids.astype(np.float64)
    if metric == "cosine":
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        C = C / np.linalg.norm(C, axis=1, keepdims=True)
    for _ in range(iterations):
        labels = ((X[:, None] - C[None]) ** 2).sum(axis=2).argmin(axis=1)
        for c in set(labels.tolist()):
            C[c] = X[labels == c].mean(axis=0)
        if metric == "cosine":
            C /= np.linalg.norm(C, axis=1, keepdims=True)
        C = C.astype(np.float32).astype(np.float64)
    squares = ((X[:, None] - C[None]) ** 2).sum(axis=2)
    return C, squares.argmin(axis=1), squares.min(axis=1).sum()


@settings(max_examples=40)
@given(
    n=st.integers(12, 90),
    d=st.integers(2, 30),
    k=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(("cosine", "euclidean")),
    precision=st.sampled_from(("bf16", "f32")),
)
def test_it_is_lloyds_algorithm(n, d, k, seed, metric, precision):
    X = rows_of(n, d, seed)
    init = X[:k]
    with mock.patch.object(module, "_without_gaps", lambda labels, *_: labels):
        found = kmeans(X, k, init=init, metric=metric, max_iter=4, tol=0, precision=precision)
    centroids, labels, inertia = plain_lloyd(X, init, found.iterations, metric)
    np.testing.assert_allclose(found.centroids, centroids, rtol=1e-5, atol=1e-5)
    assert (found.labels != labels).mean() <= 0.05  # the reference may break a near tie differently
    assert found.inertia == pytest.approx(inertia, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("batch", [None, 150])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_neither_threads_nor_precision_nor_batches_of_work_change_a_byte(metric, batch, init):
    X = rows_of(600, 150, 1)
    first = kmeans(X, 12, metric=metric, seed=3, precision="f32", batch=batch, init=init, max_iter=15)
    for options in ({"precision": "bf16"}, {"threads": 2, "precision": "bf16"}):
        with mock.patch.multiple(products, COLUMNS=8, OUTPUT={"cpu": 256}, READ_ROWS=50, PART_ROWS=4):
            again = kmeans(X, 12, metric=metric, seed=3, batch=batch, init=init, max_iter=15, **options)
        np.testing.assert_array_equal(again.centroids.view(np.uint32), first.centroids.view(np.uint32))
        np.testing.assert_array_equal(again.labels, first.labels)
        np.testing.assert_array_equal(again.distance, first.distance)
        assert again.inertia == first.inertia
    other = kmeans(X, 12, metric=metric, seed=4, batch=batch, init=init, max_iter=15)
    assert not np.array_equal(other.centroids, first.centroids)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_labels_distances_and_inertia_belong_to_the_centroids(metric):
    X = rows_of(300, 9, 5) * np.random.default_rng(0).uniform(0.1, 9, size=(300, 1)).astype(np.float32)
    found = kmeans(X, 15, metric=metric)
    rows, centroids = X.astype(float), found.centroids.astype(float)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-6)
    squares = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found.labels, squares.argmin(axis=1))
    assert found.inertia == pytest.approx(squares.min(axis=1).sum(), rel=1e-6)
    expected = squares.min(axis=1) / 2 if metric == "cosine" else np.sqrt(squares.min(axis=1))
    np.testing.assert_allclose(found.distance, expected, rtol=1e-5, atol=1e-7)


def test_points_on_a_line_by_hand():
    X = np.array([[0], [1], [2], [10], [11], [12]], np.float32)
    found = kmeans(X, 2, init=np.array([[0.0], [1.0]]), metric="euclidean", tol=0)
    assert found.centroids.tolist() == [[1.0], [11.0]]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.inertia == 4.0
    assert found.distance.tolist() == [1, 0, 1, 1, 0, 1]
    assert nearest_rows(found).tolist() == [1, 4]
    assert nearest_rows(found, 2).tolist() == [1, 0, 4, 3]
    assert nearest_rows(found, 9).tolist() == [1, 0, 2, 4, 3, 5]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_cluster_stays_empty_while_rows_differ(metric):
    X = rows_of(60, 4, 2)
    same = np.repeat(X[:1], 8, axis=0)
    found = kmeans(X, 8, init=same, metric=metric)
    assert sorted(set(found.labels.tolist())) == list(range(8))
    assert np.isfinite(found.centroids).all()


def test_more_clusters_than_distinct_rows_leave_empty_ones():
    X = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found = kmeans(X, 6, seed=1)
    assert len(set(found.labels.tolist())) == 3
    assert found.inertia == pytest.approx(0, abs=1e-12)
    assert np.isfinite(found.centroids).all()


def test_every_row_its_own_cluster_and_all_in_one():
    X = rows_of(20, 3, 0)
    assert kmeans(X, 20, metric="euclidean").inertia == 0
    one = kmeans(X, 1, metric="euclidean")
    np.testing.assert_allclose(one.centroids[0], X.astype(float).mean(axis=0), rtol=1e-6)


def test_rows_of_zeros_go_to_the_first_cluster_and_move_nothing():
    X = rows_of(50, 4, 3)
    padded = np.concatenate([X, np.zeros((10, 4), np.float32)])
    init = X[[0, 11, 22]]
    with_zeros, without = kmeans(padded, 3, init=init), kmeans(X, 3, init=init)
    np.testing.assert_array_equal(with_zeros.centroids, without.centroids)
    assert (with_zeros.labels[50:] == 0).all()
    assert (with_zeros.distance[50:] == 1.0).all()


def test_kmeans_plus_plus_spreads_its_start():
    rng = np.random.default_rng(0)
    X = (np.repeat(np.eye(10), 100, axis=0) * 50 + rng.standard_normal((1000, 10))).astype(np.float32)
    for seed in range(5):
        found = kmeans(X, 10, init="k-means++", metric="euclidean", seed=seed)
        assert found.inertia < 1.05 * 1000 * 10  # one start in each blob


def test_mini_batches_from_a_memory_map_come_near_full_passes(tmp_path):
    X = rows_of(5000, 16, 0)
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    full = kmeans(X, 20, metric="euclidean")
    with mock.patch.object(module, "STREAM_ROWS", 700):
        batches = kmeans(mapped, 20, metric="euclidean", batch=1000, max_iter=40)
    assert batches.iterations == 40
    assert batches.inertia < 1.15 * full.inertia
    assert batches.labels.shape == batches.distance.shape == (5000,)


@pytest.mark.parametrize(("n", "k"), [(3000, 30)])
def test_inertia_equals_scikit_learns(n, k):
    from sklearn.cluster import KMeans

    X = rows_of(n, 24, 7, spread=1.0)
    init = X[:k]
    ours = kmeans(X, k, init=init, metric="euclidean")
    theirs = KMeans(k, init=init, n_init=1, max_iter=100).fit(X)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=0.005)


def test_progress_ends_with_the_last_iteration():
    seen: list[tuple[int, float]] = []
    found = kmeans(rows_of(200, 5, 0), 7, progress=lambda i, share: seen.append((i, share)))
    assert [i for i, _ in seen] == list(range(1, found.iterations + 1))
    assert seen[0][1] == 1.0
    assert seen[-1][1] < 0.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is 0, but there are 5 rows"),
        ({"k": 6}, "k is 6, but there are 5 rows"),
        ({"metric": "dot"}, "known are 'cosine' and 'euclidean'"),
        ({"init": "best"}, "known are 'random', 'k-means"),
        ({"init": np.ones((3, 2))}, r"init has shape \(3, 2\), expected \(2, 2\)"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    X = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    with pytest.raises(ValueError, match=sentence):
        kmeans(X, **{"k": 2, **options})


def test_a_row_that_is_not_finite_is_refused():
    X = rows_of(30, 3, 0)
    X[9, 0] = np.inf
    with pytest.raises(ValueError, match="Row 9 holds NaN or infinity"):
        kmeans(X, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cuda_device_gives_the_same_bytes():
    X = rows_of(5000, 96, 0)
    first, second = (kmeans(X, 50, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(first.centroids.view(np.uint32), second.centroids.view(np.uint32))
    np.testing.assert_array_equal(first.labels, second.labels)
