"""k-center: a selection that leaves no row far from a kept one.

Maybe Only 0.5% Data is Needed (LTD, arXiv:2305.09246): embed every row, cluster, begin with the rows
nearest the cluster centres, then repeatedly take the row farthest from all that were taken. With
``bert-base-uncased``, mean pooling, L2 normalisation and 0.5% of one task's rows this is LTD's line;
its number of clusters is not known to us and stays a setting. The traversal is Gonzalez' (1985), used
as a core-set by Sener and Savarese (arXiv:1708.00489).

A prefix of a farthest-first traversal is the answer for its length, so the score is minus the
position at which a row was taken. The number of clusters does not follow the budget, or the prefixes
would differ.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dfilter.embed.sentences import Embedding
from dfilter.errors import DamagedError, OtherFormatError, SettingsError
from dfilter.filters.clusters import CLUSTERS as FOUND
from dfilter.filters.clusters import Clusters, embedded, vectors
from dfilter.filters.order import content_order
from dfilter.identity import spec_of
from dfilter.store.arrays import read_arrays, write_arrays
from dfilter.types import Json, Scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dfilter.cluster.kcenter import Status
    from dfilter.pool import Pool
    from dfilter.types import Bar

CLUSTERS = 20
VERSION = 2  # of the traversal; 1 lost given centres when it was resumed among them
TRAVERSAL, STATE = "traversal.arrays", ".state.arrays"  # the state is no part of the finished fit
SAVE_SECONDS = (
    20.0  # a state is as large as the rows' bounds; saving each round would cost more than it saves
)


@dataclass(frozen=True)
class Traversal:
    """A farthest-first traversal of the embeddings, a fit of at least ``pool.wanted`` picks.

    File: ``traversal.arrays`` with ``picks`` (k,) int64, positions in ``content_order``, and ``radius``
    (k,) float64, each pick's distance to the nearest earlier one, infinite for the first.

    Attributes:
        embedding: the vectors.
        metric: their distance.
        clusters: whose central rows come first, farthest-first among themselves; without, the row
            nearest the mean of all.
    """

    embedding: Embedding
    metric: Literal["cosine", "euclidean"]
    clusters: Clusters | None

    kind: ClassVar[str] = "traversal"
    version: ClassVar[int] = VERSION

    def spec(self) -> Mapping[str, Json]:
        """All settings but the length."""
        return spec_of(self)

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:
        """Traverse; continue what a killed run saved in ``folder``, or a finished shorter traversal."""
        from dfilter.cluster.kcenter import kcenter

        X = vectors(pool, self.embedding)  # noqa: N806 - a matrix
        init = read_arrays(pool.fit(self.clusters) / FOUND)["nearest"].copy() if self.clusters else None
        resume = _saved(folder / STATE, self._state(folder), pool)
        if resume is None and longer is not None:
            resume = {"indices": read_arrays(longer / TRAVERSAL)["picks"].copy()}
        with pool.progress.stage("k-center", total=length(pool), unit="picks") as bar:
            found = kcenter(
                X,
                length(pool),
                init=init,
                start="central" if init is None else 0,
                metric=self.metric,
                progress=_reported(bar),
                on_state=_saver(folder / STATE, self._state(folder)),
                state_every=1,
                resume=resume,
            )
        write_arrays(folder / TRAVERSAL, {"picks": found.indices, "radius": found.radius}, {})
        (folder / STATE).unlink(missing_ok=True)

    def _state(self, folder: Path) -> dict[str, str]:
        """What a saved state is of."""
        return {"fit": folder.parent.name, "of": folder.name}


@dataclass(frozen=True)
class Coverage:
    """How well the first ``picks`` rows of a traversal cover all rows, a fit.

    File: ``coverage.json`` with ``covering_radius`` and ``mean_distance``.
    """

    traversal: Traversal
    picks: int

    kind: ClassVar[str] = "coverage"
    version: ClassVar[int] = 1

    def spec(self) -> Mapping[str, Json]:
        """The traversal and how much of it."""
        return spec_of(self)

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:  # noqa: ARG002 - see Fit
        """Measure both over all rows of the pool."""
        from dfilter.cluster.kcenter import coverage

        picks = read_arrays(pool.fit(self.traversal, length=self.picks) / TRAVERSAL)["picks"][: self.picks]
        with pool.progress.stage("coverage"):
            X = vectors(pool, self.traversal.embedding)  # noqa: N806 - a matrix
            radius, mean = coverage(X, picks, self.traversal.metric)
        (folder / "coverage.json").write_text(
            json.dumps({"covering_radius": radius, "mean_distance": mean}), encoding="utf-8"
        )


@dataclass(frozen=True)
class KCenter:
    """Embed, cluster, start at the cluster centres, then always take the row farthest from all taken.

    Attributes:
        embedding: the encoder and its settings.
        method: how the starting rows are found: K-Means, agglomerative clustering, or none (the row
            nearest the mean of all).
        clusters: how many starting rows.
        metric: cosine or Euclidean; on vectors of length 1 both give the same order.
    """

    embedding: Embedding = field(default_factory=Embedding)
    method: Literal["kmeans", "agglomerative", "none"] = "kmeans"
    clusters: int = CLUSTERS
    metric: Literal["cosine", "euclidean"] = "cosine"

    paper: ClassVar[str] = "arXiv:2305.09246"
    reads: ClassVar[str] = "prompt and response"
    version: ClassVar[tuple[int, ...]] = (VERSION, Clusters.version)

    @property
    def deterministic(self) -> bool:
        """Whether the seed changes nothing: only K-Means starts at random."""
        return self.method != "kmeans"

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise SettingsError(
                f"clusters = {self.clusters} must be at least 1; method = 'none' does without."
            )

    def score(self, pool: Pool) -> Scores:
        """Return minus the position at which each row was taken, NaN for rows that were not reached.

        Rows without a vector abstain, and are no row's centre.

        The groups are the clusters. The facts are the covering radius (the largest distance of any
        row to its nearest kept one) and the mean of these distances: k-center buys the first with
        the second.
        """
        found = embedded(pool, self.embedding)
        given = self._scored(found.pool)
        groups = None if given.groups is None else found.spread(given.groups, -1)
        reasons = found.said(given.reasons or [])
        return replace(given, values=found.spread(given.values, np.nan), groups=groups, reasons=reasons)

    def _scored(self, pool: Pool) -> Scores:
        """Score rows that all have a vector."""
        fit = self._traversal(pool)
        folder = pool.fit(fit, length=length(pool))
        wanted = length(pool)  # a longer traversal may be stored; what is said must not depend on that
        found = read_arrays(folder / TRAVERSAL)
        picks, radius = found["picks"][:wanted], found["radius"][:wanted]
        order = content_order(pool.rows)
        values = np.full(len(order), np.nan)
        values[order[picks]] = -np.arange(len(picks), dtype=np.float64)
        reasons = np.full(len(order), "not reached", dtype=object)
        reasons[order[picks]] = [
            f"{r:.4f} from the nearest row taken before" if np.isfinite(r) else "the first row taken"
            for r in radius.tolist()
        ]
        facts: dict[str, Any] = {}
        if wanted < len(order):  # a smaller part of a full traversal is chosen by somebody else's rule
            facts = json.loads(
                (pool.fit(Coverage(fit, wanted)) / "coverage.json").read_text(encoding="utf-8")
            )
        return Scores(values, groups=self._groups(pool, fit, order), reasons=reasons.tolist(), facts=facts)

    def _traversal(self, pool: Pool) -> Traversal:
        if self.method == "none":
            return Traversal(self.embedding, self.metric, None)
        clusters = Clusters(self.embedding, self.method, self.clusters, self.metric, pool.seed)
        return Traversal(self.embedding, self.metric, clusters)

    def _groups(self, pool: Pool, fit: Traversal, order: NDArray[np.int64]) -> NDArray[np.int64] | None:
        if fit.clusters is None:
            return None
        groups = np.empty(len(order), np.int64)
        groups[order] = read_arrays(pool.fit(fit.clusters) / FOUND)["labels"]
        return groups


def length(pool: Pool) -> int:
    """Return how many picks a pool wants."""
    return min(pool.wanted, len(pool.rows))


def _reported(bar: Bar) -> Callable[[Status], None]:
    done = 0

    def report(status: Status) -> None:
        nonlocal done
        bar.advance(status.picks - done, note=f"radius {status.radius:.4f}, {status.rate:.2g} distances/s")
        done = status.picks

    return report


def _saver(path: Path, about: Mapping[str, str]) -> Callable[[Mapping[str, NDArray[Any]]], None]:
    """Save a state every ``SAVE_SECONDS``, whole or not at all."""
    last = time.monotonic()

    def save(state: Mapping[str, NDArray[Any]]) -> None:
        nonlocal last
        if time.monotonic() - last < SAVE_SECONDS:
            return
        write_arrays(path, state, about)
        last = time.monotonic()

    return save


def _saved(path: Path, about: Mapping[str, str], pool: Pool) -> Mapping[str, NDArray[Any]] | None:
    """Return the state that a killed run left; none when there is none that is whole."""
    try:
        return {name: array.copy() for name, array in read_arrays(path, about).arrays.items()}
    except FileNotFoundError:
        return None
    except (DamagedError, OtherFormatError):
        pool.progress.say(f"The saved state of {path.parent.parent.name} is damaged; it starts anew.")
        return None
