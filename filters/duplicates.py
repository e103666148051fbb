"""Duplicates: rows that say what another row says.

SemDeDup (arXiv:2303.09540) clusters embeddings and looks for near duplicates within each cluster; it
also compares with rows that were dropped already, so that a chain of small changes falls with its
first link. Here a row leaves only if it is that near to a row that stays.

A vector does not tell all of a row that is longer than the encoder's window, whose system turn is not
embedded, that has definitions of tools, or of which the encoder's vocabulary lacks something. Such
rows are near duplicates only if their texts agree as well (:mod:`dfilter.filters.agreement`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dfilter.embed.sentences import Embedding
from dfilter.errors import SettingsError
from dfilter.filters.agreement import agreeing
from dfilter.filters.clusters import CLUSTERS, Clusters, Embedded, embedded
from dfilter.filters.order import content_order, content_places
from dfilter.store.arrays import read_arrays
from dfilter.types import Scores
from dfilter.view import partial

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dfilter.cluster.duplicates import Doubt
    from dfilter.pool import Pool
    from dfilter.types import Bar

THRESHOLD = 0.95
EVERYWHERE = 20_000  # up to so many rows all pairs are compared
ROWS_A_CLUSTER = 1_000


@dataclass(frozen=True)
class Duplicates:
    """All rows but exact and near duplicates of a row that stays.

    A row that repeats another one abstains; the others keep the score they came with, or one that
    orders them by ``prefer``.

    Attributes:
        prefer: which of several like rows stays: the ``first`` as they stand in the data, the one with
            the ``longest`` response, or the one that the step before scored highest (``prior``).
        near: look for near duplicates too, not only for rows that say exactly the same.
        threshold: cosine similarity from which on two rows are near duplicates, if their vectors tell all
            of them.
        clusters: compare rows within so many K-Means clusters; 0 compares all pairs of up to 20,000
            rows and makes clusters of about 1,000 rows of more.
        neighbours: compare with the rows of so many nearest clusters too; pairs further apart are
            not found.
        embedding: the encoder and its settings.
    """

    prefer: Literal["first", "longest", "prior"] = "first"
    near: bool = True
    threshold: float = THRESHOLD
    clusters: int = 0
    neighbours: int = 0
    embedding: Embedding = field(default_factory=Embedding)

    paper: ClassVar[str] = "arXiv:2303.09540"
    reads: ClassVar[str] = "prompt and response"
    version: ClassVar[tuple[int, ...]] = (3, Clusters.version)  # 2 passed over tools, signs, unknowns

    @property
    def equivariant(self) -> bool:
        """Whether the order of the rows does not matter."""
        return self.prefer != "first"

    @property
    def deterministic(self) -> bool:
        """Whether the seed changes nothing: only K-Means starts at random."""
        return not self.near

    def __post_init__(self) -> None:
        findings = []
        if not 0 < self.threshold <= 1:
            findings.append(
                f"threshold = {self.threshold} is no cosine similarity; give one above 0, up to 1."
            )
        if self.clusters < 0:
            findings.append(f"clusters = {self.clusters} is negative; 0 chooses.")
        if self.neighbours < 0:
            findings.append(f"neighbours = {self.neighbours} is negative; 0 stays within clusters.")
        if findings:
            raise SettingsError(*findings)

    def score(self, pool: Pool) -> Scores:
        """Return NaN for rows that repeat another one, with that row as the reason.

        Raises:
            SettingsError: ``prefer`` is "prior" and there is no step before.
        """
        values = self._values(pool)
        found = embedded(pool, self.embedding) if self.near and len(values) > 1 else None
        why = found.why if found else {}
        values[list(why)] = np.nan
        # Best first; what is left of a tie is broken by what the rows say, so the order of rows is not.
        rank = np.lexsort((content_places(pool.rows), -values))
        if self.prefer == "first":
            rank = np.argsort(pool.rows.indices, kind="stable")
        rank = rank[~np.isnan(values[rank])]
        of = np.full(len(values), -1)  # the row that each row repeats
        likeness = np.full(len(values), np.nan)
        stays = rank[_first_of_each(pool.rows.keys[rank], rank, of)]
        exact = len(rank) - len(stays)
        apart = self._find_near(found, stays, of, likeness) if found and len(stays) > 1 else 0
        ids = pool.rows.ids
        reasons = [
            why.get(at) or _reason(ids[repeated] if repeated >= 0 else None, similar, missing=np.isnan(value))
            for at, (value, repeated, similar) in enumerate(
                zip(values, of.tolist(), likeness.tolist(), strict=True)
            )
        ]
        facts = {"exact_duplicates": exact, "near_duplicates": int((~np.isnan(likeness)).sum())}
        facts |= {"told_apart_by_their_texts": apart} if apart else {}
        return Scores(np.where(of >= 0, np.nan, values), reasons=reasons, facts=facts)

    def _find_near(
        self, found: Embedded, stays: NDArray[np.int64], of: NDArray[np.int64], likeness: NDArray[np.float64]
    ) -> int:
        """Enter the near duplicates among ``stays`` (best first) into ``of`` and ``likeness``.

        Returns:
            How many rows stay because their texts differ, although their vectors are near.
        """
        from dfilter.cluster.duplicates import near_duplicates

        pool = found.pool
        content = content_order(pool.rows)
        labels = np.zeros(len(content), np.int64)
        count = self.clusters or (1 if len(content) <= EVERYWHERE else len(content) // ROWS_A_CLUSTER)
        if count > 1:
            fit = Clusters(self.embedding, "kmeans", count, "cosine", pool.seed)
            labels[content] = read_arrays(pool.fit(fit) / CLUSTERS)["labels"]
        X = pool.signal(self.embedding)  # noqa: N806 - a matrix
        inside = np.searchsorted(found.places, stays)
        best_first = np.ascontiguousarray(X[inside])
        with pool.progress.stage("near duplicates", total=len(stays)) as bar:
            near = near_duplicates(
                best_first,
                threshold=self.threshold,
                clusters=labels[inside],
                neighbours=self.neighbours,
                doubt=self._doubt(pool, inside),
                progress=_reported(bar),
            )
        repeats = np.flatnonzero(near.of >= 0)
        of[stays[repeats]] = stays[near.of[repeats]]
        likeness[stays[repeats]] = _cosines(best_first[repeats], best_first[near.of[repeats]])
        return int(near.apart.sum())

    def _doubt(self, pool: Pool, inside: NDArray[np.int64]) -> Doubt | None:
        """Return the rows whose vectors do not tell all of them, see the module.

        A system turn or tools that most rows have tell none of these apart.
        """
        from dfilter.cluster.duplicates import Doubt

        seen = pool.view(self.embedding)
        if seen is None:
            return None
        rows, seen = pool.part(inside), seen[inside]
        long = partial(seen)
        doubtful = long | (seen["unknown"] > 0)
        apart = [(row.tools, "" if self.embedding.system else row.system) for row in rows.rows]
        commonest = Counter(apart).most_common(1)[0][0]
        doubtful |= np.array([one != commonest for one in apart])
        if not doubtful.any():
            return None
        return Doubt(doubtful, agreeing(rows, self.embedding, self.threshold, seen["tokens"], long))

    def _values(self, pool: Pool) -> NDArray[np.float64]:
        if self.prefer == "prior":
            if pool.prior is None:
                raise SettingsError("prefer = 'prior' needs a step before this one whose scores count.")
            return pool.prior.values
        if self.prefer == "longest":
            return np.array([len(row.response) for row in pool.rows], dtype=np.float64)
        return np.zeros(len(pool.rows))


def _reported(bar: Bar) -> Callable[[int], None]:
    done = 0

    def report(rows: int) -> None:
        nonlocal done
        bar.advance(rows - done)
        done = rows

    return report


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each row of ``a`` with its row of ``b``, (n,)."""
    products = [np.einsum("ij,ij->i", x, y, dtype=np.float64) for x, y in ((a, b), (a, a), (b, b))]
    found: NDArray[np.float64] = products[0] / np.sqrt(products[1] * products[2])
    return found


def _first_of_each(
    keys: NDArray[np.uint8], rows: NDArray[np.int64], of: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the places of rows that say something for the first time; enter the others into ``of``."""
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), 2)
    _, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    again = original != np.arange(len(keys))
    of[rows[again]] = rows[original[again]]
    return np.flatnonzero(~again)


def _reason(repeated: str | None, similarity: float, *, missing: bool) -> str:
    if missing:
        return "had no score"
    if repeated is None:
        return "repeats no row that stays"
    if np.isnan(similarity):
        return f"says the same as '{repeated}'"
    return f"near duplicate of '{repeated}' (cosine {similarity:.3f})"
