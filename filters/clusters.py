"""What k-center and the search for duplicates learn first: clusters of the rows' embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dfilter.embed.sentences import Embedding
from dfilter.errors import InputError
from dfilter.filters.order import content_order
from dfilter.identity import spec_of
from dfilter.store.arrays import write_arrays
from dfilter.types import Json
from dfilter.view import MULTILINGUAL, unknown

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


UNKNOWN = "mostly unknown to the encoder's vocabulary"
NOT_FINITE = "the encoder gives no finite vector"


@dataclass(frozen=True, eq=False)
class Embedded:
    """The rows that an encoder has a vector for.

    Attributes:
        pool: these rows alone; the whole pool where they are all.
        places: (m,) where they stand in the whole pool.
        why: why the others have none, by place.
    """

    pool: Pool
    places: NDArray[np.int64]
    why: Mapping[int, str]

    def spread(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """Return the rows' values at their places in the whole pool, (n,), ``fill`` at the others."""
        if not self.why:
            return values
        out = np.full(len(self.places) + len(self.why), fill, values.dtype)
        out[self.places] = values
        return out

    def said(self, reasons: Sequence[str]) -> list[str]:
        """Return the rows' reasons at their places, and at the others why they have no vector."""
        given = iter(reasons)
        count = len(self.places) + len(self.why)
        return [self.why[at] if at in self.why else next(given) for at in range(count)]


def embedded(pool: Pool, embedding: Embedding) -> Embedded:
    """Return the rows that have a vector which says something of them.

    Raises:
        InputError: none has.
    """
    why = dict.fromkeys(pool.lacking(embedding).tolist(), NOT_FINITE)
    seen = pool.view(embedding)
    if seen is not None:
        why |= dict.fromkeys(np.flatnonzero(unknown(seen)).tolist(), UNKNOWN)
    if not why:
        return Embedded(pool, np.arange(len(pool.rows)), {})
    if len(why) == len(pool.rows):
        raise InputError(
            f"All {len(why):,} rows are mostly unknown to the vocabulary of '{embedding.model}'. Set "
            f"embedding.model to a multilingual encoder, for instance {MULTILINGUAL}."
        )
    places = np.setdiff1d(np.arange(len(pool.rows)), np.array(list(why), np.int64))
    return Embedded(pool.part(places), places, why)


def vectors(pool: Pool, embedding: Embedding) -> NDArray[np.float32]:
    """Return the pool's embeddings in the order of ``content_order``, (n, d) float32."""
    found: NDArray[np.float32] = pool.signal(embedding)[content_order(pool.rows)]
    return np.ascontiguousarray(found, dtype=np.float32)
