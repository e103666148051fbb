"""What a filter may use."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dfilter.data.dataset import Dataset
from dfilter.errors import StoreError
from dfilter.identity import Kind, kind_of
from dfilter.progress import Silent
from dfilter.store import home
from dfilter.store.disk import disk_errors, keep_json, read_text
from dfilter.store.executors import Executor, Local
from dfilter.store.fits import fitted
from dfilter.store.notices import say_older
from dfilter.store.shards import Shards, plan
from dfilter.types import Fit, Progress, Scores, Signal

SHARD_ROWS = 1024


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
    """

    rows: Dataset
    seed: int = 0
    wanted: int = -1
    target: Pool | None = None
    prior: Scores | None = None
    progress: Progress = field(default_factory=Silent)
    store: Store = field(default_factory=Store)

    def __post_init__(self) -> None:
        if self.wanted < 0:
            object.__setattr__(self, "wanted", len(self.rows))

    def signal(self, signal: Signal) -> NDArray[Any]:
        """Return the signal's value of every row, (n, *shape), computing what is not stored.

        Raises:
            StoreError: the signal returned something that cannot be stored, or the disk is full.
        """
        spec = signal.spec()
        kind = kind_of(signal, "signals")
        shards = Shards(self.store.folder / "signals" / kind.place(spec))
        started = time.monotonic()
        computed = self._complete(signal, kind, spec, shards)
        self._record(kind.label, len(self.rows) - computed, computed, started)
        return shards.read(self.rows.keys)

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
        loaded = json.loads(read_text(folder / "spec.json"))
        kind = loaded.get("kind") or loaded["class"]  # an earlier version named the class
        return {"kind": kind, "version": loaded.get("version"), "spec": loaded["spec"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{folder} holds no readable spec.json; the next run writes it anew.") from error
