"""Greedy k-center picks what the plain algorithm picks, bit for bit, whatever it is told about speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dfilter.cluster import pairs
from dfilter.cluster.kcenter import KCenter, coverage, kcenter
from dfilter.cluster.products import Centres, Space, checked, exact_products

Matrix = NDArray[np.float32]
PRECISIONS = ("f32", "bf16")


def scales(X: Matrix, metric: str) -> NDArray[np.float64]:
    lengths = np.sqrt([pairs.lane_sum(x, 1.0, x, 0.0) for x in X])
    if metric == "euclidean":
        return np.ones(len(X))
    return np.divide(1.0, lengths, out=np.zeros(len(X)), where=lengths > 0)


def reference(
    X: Matrix,
    k: int,
    metric: str,
    first: list[int],
    among: list[int] | None = None,
    vectors: Matrix | None = None,
) -> tuple[list[int], list[float]]:
    """The plain algorithm: one pass over all rows for every pick."""
    all_points = X if vectors is None else np.concatenate([X, vectors])
    scale = scales(all_points, metric)
    value = np.full(len(X), np.inf)
    picks: list[int] = []
    radius: list[float] = []
    for v in range(len(X), len(all_points)):
        value = np.minimum(
            value, [pairs.pair(x, s, all_points[v], scale[v]) for x, s in zip(X, scale, strict=False)]
        )
    allowed = np.zeros(len(X), bool)
    allowed[range(len(X)) if among is None else among] = True
    while len(picks) < k:
        open_rows = np.where(allowed, value, -1)
        open_rows[picks] = -1
        pick = first[len(picks)] if len(picks) < len(first) else int(open_rows.argmax())
        radius.append(value[pick] / 2 if metric == "cosine" else np.sqrt(value[pick]))
        picks.append(pick)
        value = np.minimum(
            value, [pairs.pair(x, s, X[pick], scale[pick]) for x, s in zip(X, scale, strict=False)]
        )
        if among is not None and len(picks) == len(among):
            allowed[:] = True
    return picks, radius


def clustered(n: int, d: int, seed: int, kind: str) -> Matrix:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    if kind == "clustered":
        X = X[rng.integers(max(n // 8, 1), size=n)] + 0.05 * X
    if kind == "duplicated":
        X = X[rng.integers(max(n // 3, 1), size=n)]
    if kind == "equal":
        X = np.repeat(X[:1], n, axis=0)
    if kind == "grid":  # many exact ties
        X = rng.integers(-1, 2, size=(n, d)).astype(float)
    if kind == "parallel":
        X = X[rng.integers(max(n // 3, 1), size=n)] * 2.0 ** rng.integers(-3, 4, size=(n, 1))
    if kind == "huge":
        X *= 10.0 ** rng.integers(-30, 30)
    return X.astype(np.float32)


KINDS = ("random", "clustered", "duplicated", "equal", "grid", "parallel", "huge")


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 37),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    block=st.sampled_from((1, 7, 512)),
    front=st.sampled_from((1, 5, 64)),
    precision=st.sampled_from(PRECISIONS),
    threads=st.sampled_from((1, 2)),
    data=st.data(),
)
def test_the_sequence_is_that_of_the_plain_algorithm(
    n, d, seed, kind, metric, block, front, precision, threads, data
):
    X = clustered(n, d, seed, kind)
    k = data.draw(st.integers(1, n))
    start = data.draw(st.integers(0, n - 1))
    found = kcenter(
        X, k, start=start, metric=metric, block=block, front=front, precision=precision, threads=threads
    )
    picks, radius = reference(X, k, metric, [start])
    assert found.indices.tolist() == picks
    np.testing.assert_array_equal(found.radius, radius)
