"""What a filter may use."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.data.dataset import Dataset
from dfilter.errors import ModelError, StoreError
from dfilter.identity import Kind, kind_of
from dfilter.progress import Silent
from dfilter.store import home
from dfilter.store.disk import disk_errors, keep_json
from dfilter.store.executors import Executor, Local
from dfilter.store.fits import fitted
from dfilter.store.notices import say_older
from dfilter.store.shards import Shards, plan
from dfilter.types import Fit, Progress, Scores, Signal
from dfilter.view import View, Views, Windowed

SHARD_ROWS = 1024
NAMED = 5  # rows that a line on screen names


@dataclass(eq=False)
class Store:
    """Where signals and fits live, who computes them, and what was asked of them."""

    folder: Path = field(default_factory=home)
    executor: Executor = field(default_factory=Local)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows that a step of a strategy sees, and everything computed about them.

    Attributes:
        rows: the rows, memory-mapped; iterates :class:`dfilter.Example`.
        seed: everything random in a filter takes this seed.
        wanted: an upper bound on the rows that this step must rank; -1 stands for all.
        target: the rows of the task to select for, or none.
        prior: the scores of the step before, aligned with ``rows``, or none.
        progress: where to report.
        store: where signals and fits come from.
        views: what the windows of the signals that were asked for show of the rows.
    """

    rows: Dataset
    seed: int = 0
    wanted: int = -1
    target: Pool | None = None
    prior: Scores | None = None
    progress: Progress = field(default_factory=Silent)
    store: Store = field(default_factory=Store)
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        if self.wanted < 0:
            object.__setattr__(self, "wanted", len(self.rows))

    def signal(self, signal: Signal) -> NDArray[Any]:
        """Return the signal's value of every row, (n, *shape), computing what is not stored.

        Rows that a signal has no finite value for have NaN, where it promises finite ones.

        Raises:
            StoreError: the signal returned something that cannot be stored, or the disk is full.
            ModelError: it promises finite values and has none.
        """
        shards = self._completed(signal)
        self.view(signal)
        return shards.read(self.rows.keys, gaps=getattr(signal, "finite", False))

    def lacking(self, signal: Signal) -> NDArray[np.int64]:
        """Return the rows that a signal, which promises finite values, has none for; it is computed first.

        Raises:
            ModelError: it has none for any row.
        """
        if not getattr(signal, "finite", False):
            return np.empty(0, np.int64)
        found: NDArray[np.int64] = self._completed(signal).missing(self.rows.keys).nonzero()[0]
        return found

    def view(self, signal: Signal | Windowed) -> NDArray[np.void] | None:
        """Return what the window of a signal shows of every row, (n,) of ``dfilter.view.SEEN``.

        The run counts it. None where the signal says nothing of a window.
        """
        if not isinstance(signal, Windowed):
            return None
        kind = kind_of(signal, "signals")
        place = kind.place(signal.spec())
        if place not in self.views.seen:
            view = View(signal)
            self.views.add(place, kind.label, self._completed(view).read(self.rows.keys))
        return self.views.seen[place]

    def part(self, places: NDArray[np.int64]) -> Pool:
        """Return the pool of some rows, in this order; the step before is not passed on."""
        rows = self.rows.take(places)
        return replace(self, rows=rows, wanted=min(self.wanted, len(rows)), prior=None, views=Views())

    def fit(self, fit: Fit, *, length: int = 0) -> Path:
        """Return the finished folder of a fit on these rows, computing it when it is not stored.

        Args:
            fit: what to learn.
            length: for fits whose prefix is an answer too (a traversal): how long it must be at least.
        """
        started = time.monotonic()
        folder, computed = fitted(self.store.folder / "fits", fit, self, length)
        self._record(
            kind_of(fit, "fits").label, 0 if computed else len(self.rows), len(self.rows) * computed, started
        )
        return folder

    def _completed(self, signal: Signal) -> Shards:
        """Return the signal's shards, which hold every row's value as far as it has one."""
        spec = signal.spec()
        kind = kind_of(signal, "signals")
        shards = Shards(self.store.folder / "signals" / kind.place(spec))
        started = time.monotonic()
        computed = self._complete(signal, kind, spec, shards)
        self._record(kind.label, len(self.rows) - computed, computed, started)
        if computed and getattr(signal, "finite", False):
            self._name_lacking(kind.label, shards.missing(self.rows.keys).nonzero()[0])
        return shards

    def _name_lacking(self, label: str, places: NDArray[np.int64]) -> None:
        if not len(places):
            return
        if len(places) == len(self.rows):
            raise ModelError(
                f"{label}: the model gives a finite value for none of {len(places):,} rows. Its weights are "
                "damaged, or its number format is too narrow; try float32, or another model."
            )
        ids = [f"'{self.rows.ids[at]}'" for at in places[:NAMED].tolist()]
        more = ", ..." if len(places) > NAMED else ""
        self.progress.say(
            f"{label}: {len(places):,} rows have no finite value, which is not stored: {', '.join(ids)}{more}"
        )

    def _complete(self, signal: Signal, kind: Kind, spec: Any, shards: Shards) -> int:
        missing = shards.missing(self.rows.keys).nonzero()[0]
        if shards.damaged:
            self.progress.say(
                f"Removed {len(shards.damaged)} damaged files of {shards.folder.name}; "
                "what is needed of them is computed again."
            )
        with disk_errors(shards.folder):
            keep_json(shards.folder / "spec.json", kind.record(spec))
            if not len(missing):
                return 0
            shards.sweep()
        say_older(self.progress, shards.folder, "Signals")
        cuts = plan(
            self.rows.keys[missing], self.rows.lengths[missing], getattr(signal, "shard_rows", SHARD_ROWS)
        )
        work = [missing[cut] for cut in cuts]
        characters = float(sum(self.rows.lengths[cut].sum() for cut in work))
        with self.progress.stage(kind.label, total=characters, unit="characters") as bar:
            return self.store.executor.run(signal, self.rows, work, shards, bar)

    def _record(self, name: str, hits: int, computed: int, started: float) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.store.log.append({"name": name, "stored": hits, "computed": computed, "seconds": seconds})


def read_spec(folder: Path) -> dict[str, Any]:
    """Return kind, version and settings that a stored signal or fit was made with."""
    try:
        loaded = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        kind = loaded.get("kind") or loaded["class"]  # an earlier version named the class
        return {"kind": kind, "version": loaded.get("version"), "spec": loaded["spec"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{folder} holds no readable spec.json; the next run writes it anew.") from error
