"""What k-center and the search for duplicates learn first: clusters of the rows' embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dfilter.embed.sentences import Embedding
from dfilter.filters.order import content_order
from dfilter.identity import spec_of
from dfilter.store.arrays import write_arrays
from dfilter.types import Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool


CLUSTERS = "clusters.arrays"


@dataclass(frozen=True)
class Clusters:
    """Clusters of the rows' embeddings, a fit; its arrays are in the order of ``content_order``.

    File: ``clusters.arrays`` with ``labels`` (n,) int64 and ``nearest`` (c,) int64, the row of each
    cluster that is nearest the mean of its rows (for cosine: of its rows scaled to length 1), the first
    among equals.

    Attributes:
        embedding: the vectors.
        method: K-Means, or agglomerative clustering over a graph of nearest neighbours.
        clusters: how many; at most one per row.
        metric: cosine or Euclidean.
        seed: of the random start of K-Means.
    """

    embedding: Embedding
    method: Literal["kmeans", "agglomerative"]
    clusters: int
    metric: Literal["cosine", "euclidean"]
    seed: int

    kind: ClassVar[str] = "clusters"
    version: ClassVar[int] = 1

    def spec(self) -> Mapping[str, Json]:
        """All settings; agglomerative clustering has nothing random."""
        return {n: v for n, v in spec_of(self).items() if n != "seed" or self.method == "kmeans"}

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:  # noqa: ARG002 - see Fit
        """Cluster the rows of the pool."""
        X = vectors(pool, self.embedding)  # noqa: N806 - a matrix
        labels = self._labels(X, pool)
        groups, labels = np.unique(labels, return_inverse=True)
        nearest = [_central(X, np.flatnonzero(labels == group), self.metric) for group in range(len(groups))]
        found = {"labels": labels.astype(np.int64), "nearest": np.array(nearest, np.int64)}
        write_arrays(folder / CLUSTERS, found, {})

    def _labels(self, X: NDArray[np.float32], pool: Pool) -> NDArray[np.int64]:  # noqa: N803 - a matrix
        count = min(self.clusters, len(X))
        if count < 2:
            return np.zeros(len(X), np.int64)
        with pool.progress.stage("clustering"):
            if self.method == "agglomerative":
                from dfilter.cluster.agglomerative import agglomerative

                return agglomerative(X, count)
            from dfilter.cluster.kmeans import kmeans

            return kmeans(X, count, metric=self.metric, seed=self.seed).labels


def _central(X: NDArray[np.float32], members: NDArray[np.int64], metric: str) -> int:  # noqa: N803
    rows = X[members].astype(np.float64)
    if metric == "cosine":
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return int(members[((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin()])


def vectors(pool: Pool, embedding: Embedding) -> NDArray[np.float32]:
    """Return the pool's embeddings in the order of ``content_order``, (n, d) float32."""
    found: NDArray[np.float32] = pool.signal(embedding)[content_order(pool.rows)]
    return np.ascontiguousarray(found, dtype=np.float32)
