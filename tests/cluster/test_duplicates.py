"""Near-duplicates: exactly the rows that a kept row before them repeats."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.cluster import duplicates, pairs
from dfilter.cluster.duplicates import Doubt, near_duplicates


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_equally_near_clusters_are_taken_by_label():
    X = np.array([[3.0], [7.0], [0.1], [-1.0]], np.float32)  # all the same direction but the last
    found = near_duplicates(X, clusters=np.array([2, 1, 0, 3]), neighbours=1)
    assert found.of.tolist() == [-1, -1, 0, -1]  # 2 and 1 both have 0 for their neighbour


def similar(n, d, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((max(n // 4, 1), d))[rng.integers(max(n // 4, 1), size=n)]
    rows += rng.choice([0.0, 0.1, 0.4, 1.0], size=(n, 1)) * rng.standard_normal((n, d))
    rows[rng.random(n) < 0.05] = 0.0
    return rows.astype(np.float32)


def reference(X, order, threshold, allowed=None):
    """Walk the rows one by one."""
    scale = [0.0 if not x.any() else 1 / np.sqrt(pairs.lane_sum(x, 1.0, x, 0.0)) for x in X]
    of = np.full(len(X), -1)
    kept: list[int] = []
    for row in order:
        for other in kept:
            if allowed is not None and not allowed(row, other):
                continue
            if pairs.pair(X[row], scale[row], X[other], scale[other]) <= 2 * (1 - threshold):
                of[row] = other
                break
        else:
            kept.append(row)
    return of


@settings(max_examples=60)
@given(
    n=st.integers(1, 70),
    d=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from((-0.5, 0.5, 0.9, 0.99, 1.0)),
    clusters=st.sampled_from((None, 1, 3, 10)),
    neighbours=st.sampled_from((0, 1, 2, "all")),
    precision=st.sampled_from(("bf16", "f32")),
    small=st.booleans(),
    doubtful=st.sampled_from((0.0, 0.3, 1.0)),
)
def test_the_result_is_that_of_walking_row_by_row(
    n, d, seed, threshold, clusters, neighbours, precision, small, doubtful
):
    X = similar(n, d, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    labels = None if clusters is None else rng.integers(clusters, size=n) * 7
    sizes = {"FIRST_ROWS": 3, "BLOCK_ROWS": 8, "PAIR_COLUMNS": 4} if small else {"FIRST_ROWS": 256}
    unsure, says = rng.random(n) < doubtful, rng.integers(2, size=n)
    doubt = Doubt(unsure, lambda a, b: says[a] == says[b]) if doubtful else None
    with mock.patch.multiple(duplicates, **sizes):
        found = near_duplicates(
            X, order, threshold, clusters=labels, neighbours=neighbours, doubt=doubt, precision=precision
        )

    linked = neighbourhood(X, labels, neighbours)

    def compared(a, b):
        return linked is None or linked[labels[a], labels[b]]

    def agreed(a, b):
        return compared(a, b) and (not (unsure[a] or unsure[b]) or says[a] == says[b])

    expected = reference(X, order, threshold, agreed)
    np.testing.assert_array_equal(found.of, expected)
    np.testing.assert_array_equal(found.keep, expected < 0)
    assert not found.apart[expected >= 0].any()
    kept = [row for row in order if expected[row] < 0]
    near = reference(X, kept, threshold, compared) >= 0  # kept rows that are near a kept one all the same
    assert found.apart[near].all()


def neighbourhood(X, labels, neighbours):
    """Which labels are compared, or none for all."""
    if labels is None or neighbours == "all":
        return None
    names = np.unique(labels)
    unit = X.astype(float)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)
    sums = np.array([unit[labels == name].sum(axis=0) for name in names])
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    sizes = np.array([(labels == name).sum() for name in names])
    sums = np.divide(sums, length, out=np.zeros_like(sums), where=length > 1e-9 * sizes[:, None])
    linked = np.zeros((names.max() + 1, names.max() + 1), bool)
    for i, name in enumerate(names):
        near = [j for j in np.argsort(-np.round(sums @ sums[i], 9), kind="stable") if j != i][:neighbours]
        for j in [*near, i]:
            linked[name, names[j]] = linked[names[j], name] = True
    return linked


def test_by_hand():
    angles = np.radians([0, 10, 20, 30, 180])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = near_duplicates(X, threshold=0.98)  # cos 10 = 0.985, cos 20 = 0.940
    assert found.of.tolist() == [-1, 0, -1, 2, -1]  # 20 repeats 10, which is dropped and drops nobody
    assert [group.tolist() for group in found.groups()] == [[0, 1], [2, 3]]
    turned = near_duplicates(X, np.array([4, 3, 2, 1, 0]), 0.98)
    assert turned.of.tolist() == [1, -1, 3, -1, -1]


def test_equal_rows_keep_the_first_in_order():
    X = np.ones((3000, 4), np.float32)
    found = near_duplicates(X, np.arange(3000)[::-1], 1.0)
    assert np.flatnonzero(found.keep).tolist() == [2999]
    assert set(found.of[:2999].tolist()) == {2999}
    assert [len(group) for group in found.groups()] == [3000]


def test_no_duplicates_give_no_groups():
    assert near_duplicates(np.eye(5, dtype=np.float32), threshold=0.5).groups() == []


def test_clusters_hide_what_stands_apart_and_neighbours_show_it():
    X = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0]], np.float32)
    labels = np.array([0, 1, 2, 3])
    assert near_duplicates(X, clusters=labels).keep.all()
    assert near_duplicates(X, clusters=labels, neighbours=1).of.tolist() == [-1, 0, -1, -1]
    assert near_duplicates(X, clusters=labels, neighbours="all").of.tolist() == [-1, 0, -1, -1]


def test_real_rows_equal_brute_force(test_data):
    X = np.load(test_data / "embeddings" / "instructions_52k_minilm_f16.npy", mmap_mode="r")[:8000]
    X = X.astype(np.float32)
    of = near_duplicates(X, threshold=0.9).of
    unit = torch.from_numpy(X / np.linalg.norm(X, axis=1, keepdims=True))
    kept = torch.zeros(len(X), dtype=torch.bool)
    for start in range(0, len(X), 2000):
        block = unit[start : start + 2000]
        near = block @ unit.T >= 0.9
        for i in range(len(block)):
            hits = near[i, : start + i] & kept[: start + i]
            row = start + i
            if hits.any():
                assert of[row] == int(hits.nonzero()[0])
            else:
                assert of[row] == -1
                kept[row] = True
    assert 6_600 < int(kept.sum()) < 7_400


def test_progress_counts_every_row():
    seen: list[int] = []
    near_duplicates(similar(700, 4, 0), clusters=np.arange(700) % 3, progress=seen.append)
    assert seen[-1] == 700
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": np.array([0, 1, 1])}, "order has to name each of the 3 rows once"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"clusters": np.zeros(2)}, "expected one label for each of the 3 rows"),
        ({"neighbours": -1}, "neighbours is -1"),
        ({"neighbours": "some"}, "neighbours is 'some'"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        near_duplicates(np.eye(3, dtype=np.float32), **options)


def test_a_row_that_is_not_finite_is_refused():
    X = np.eye(3, dtype=np.float32)
    X[1, 1] = np.inf
    with pytest.raises(ValueError, match="Row 1 holds NaN or infinity"):
        near_duplicates(X)
