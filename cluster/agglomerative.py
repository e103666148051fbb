"""Agglomerative clustering over a graph of nearest neighbours: scikit-learn's, given a graph that fits.

Without a graph, scikit-learn holds all n^2 / 2 distances (20 GB at 50,000 rows). With one, only neighbours
merge, and memory and time grow with the edges. The graph is found in blocks, so n^2 is never held either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dfilter.cluster.products import Metric

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

MOST_ROWS = 100_000  # beyond, minutes become hours: merging is one thread of Python and Cython
BLOCK_ROWS = 1024
SPARE = 8  # candidates beyond those wanted, for float32's errors to reorder


def agglomerative(
    X: NDArray[Any],
    k: int,
    *,
    neighbours: int = 10,
    linkage: Literal["ward", "average", "complete", "single"] = "ward",
    metric: Metric = "cosine",
) -> Int64:
    """Merge rows into ``k`` clusters, nearest first, along the edges of their nearest-neighbour graph.

    Args:
        X: (n, d) rows, at most 100,000.
        k: clusters, 1 to n.
        neighbours: edges from each row to the rows nearest to it; parts of the graph that stay apart are
            joined by their nearest pair of rows, by scikit-learn.
        linkage: "ward" (least growth of inertia), "average", "complete" or "single".
        metric: "cosine" (rows enter as unit vectors, for which Ward and Euclidean distances make sense; a
            row of zeros stays at the origin) or "euclidean".

    Returns:
        (n,) int64 labels, 0 to k - 1, numbered in the order in which clusters first appear.

    Raises:
        ValueError: there are too many rows, or a row or setting cannot be used.
    """
    from sklearn.cluster import AgglomerativeClustering

    from dfilter.cluster.products import checked

    rows = checked(X)
    _check(rows, k, neighbours, linkage, metric)
    if metric == "cosine":
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    if k == len(rows):
        return np.arange(len(rows))
    graph = connected(rows, neighbour_graph(rows, min(neighbours, len(rows) - 1)))
    model = AgglomerativeClustering(n_clusters=k, linkage=linkage, connectivity=graph)
    labels = model.fit_predict(rows)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def neighbour_graph(rows: Float32, neighbours: int) -> csr_array:
    """Return the symmetric graph of each row and the ``neighbours`` nearest to it, Euclidean.

    Candidates come from float32 products, a few more than needed; exact values choose among them.
    """
    from scipy.sparse import csr_array

    n = len(rows)
    columns = np.empty((n, neighbours), np.int64)
    for begin in range(0, n, BLOCK_ROWS):
        ids = np.arange(begin, min(begin + BLOCK_ROWS, n))
        columns[ids] = _nearest(rows, ids, np.arange(n), neighbours)[0]
    edges = np.ones(columns.size, np.int8), (np.repeat(np.arange(n), neighbours), columns.ravel())
    graph = csr_array(edges, shape=(n, n))
    return graph.maximum(graph.T).tocsr()


def connected(rows: Float32, graph: csr_array) -> csr_array:
    """Join the parts of a graph: every part but the largest by its nearest row of another, until one is left.

    scikit-learn would join them too, but with all distances between two parts in memory.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    while True:
        count, part = connected_components(graph, directed=False)
        if count == 1:
            return graph
        largest = np.bincount(part).argmax()
        ends = [_bridge(rows, part, label) for label in range(count) if label != largest]
        a, b = np.array(ends).T
        more = csr_array(
            (np.ones(2 * len(a), np.int8), (np.append(a, b), np.append(b, a))), shape=graph.shape
        )
        graph = graph.maximum(more).tocsr()


def _bridge(rows: Float32, part: NDArray[np.int32], label: int) -> tuple[int, int]:
    """Return the nearest pair of a row of this part and a row of another."""
    inside, outside = np.flatnonzero(part == label), np.flatnonzero(part != label)
    best = (np.inf, 0, 0)
    for begin in range(0, len(inside), BLOCK_ROWS):
        ids = inside[begin : begin + BLOCK_ROWS]
        near, value = _nearest(rows, ids, outside, 1)
        at = int(value[:, 0].argmin())
        best = min(best, (float(value[at, 0]), int(ids[at]), int(near[at, 0])))
    return best[1:]


def _nearest(rows: Float32, ids: Int64, among: Int64, count: int) -> tuple[Int64, NDArray[np.float64]]:
    """Return the ``count`` nearest others of each row, nearest first, and their squared distances."""
    import torch

    from dfilter.cluster import pairs
    from dfilter.cluster.precision import exact_products

    wanted = min(count + SPARE, len(among))
    with exact_products(None) as threads, torch.inference_mode():
        torch.set_num_threads(threads)  # one large product at a time
        block, others = torch.tensor(rows[ids]), torch.tensor(rows[among])
        score = block @ others.T - others.square().sum(1) / 2
        score[torch.from_numpy(ids[:, None] == among[None, :])] = -torch.inf
        found = score.topk(wanted, dim=1).indices.numpy()
    near = among[found]
    value = np.empty(near.size)
    scale = np.ones(len(rows))
    pairs.values(0, near.size, np.repeat(ids, wanted), near.ravel(), rows, scale, value)
    value = value.reshape(near.shape)
    value[near == ids[:, None]] = np.inf
    order = np.lexsort((near, value))[:, :count]
    return np.take_along_axis(near, order, 1), np.take_along_axis(value, order, 1)


def _check(rows: Float32, k: int, neighbours: int, linkage: str, metric: str) -> None:
    n = len(rows)
    if n > MOST_ROWS:
        raise ValueError(
            f"Agglomerative clustering takes at most {MOST_ROWS:,} rows, found {n:,}. "
            "Use K-Means for so many, or cluster a sample."
        )
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, but there are {n} rows; ask for 1 to {n} clusters.")
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; every row needs at least 1.")
    if linkage not in {"ward", "average", "complete", "single"}:
        raise ValueError(f"linkage is '{linkage}'; known are 'ward', 'average', 'complete' and 'single'.")
    if metric not in {"cosine", "euclidean"}:
        raise ValueError(f"metric is '{metric}'; known are 'cosine' and 'euclidean'.")
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"Row {wrong[0]} holds NaN or infinity ({len(wrong)} of {n} do); leave such rows out."
        )
