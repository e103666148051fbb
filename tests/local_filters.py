"""Filters of a user's own, as `--strategy tests/local_filters.py:CLASS` takes them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dfilter import Example, Pool, Scores


@dataclass(frozen=True)
class Column:
    """Ranks rows by a column of theirs; a row without it abstains."""

    column: str = "stars"
    group: str = ""

    def score(self, pool: Pool) -> Scores:
        values = [row.fields.get(self.column) for row in pool.rows]
        groups = None
        if self.group:
            groups = np.array([int(row.fields[self.group]) for row in pool.rows], np.int64)
        return Scores(
            np.array([math.nan if v is None else float(v) for v in values]),
            groups=groups,
            reasons=[f"{self.column} is {v}" for v in values],
            facts={"wanted": pool.wanted, "rows": len(pool.rows), "prior": _listed(pool.prior)},
        )


def _listed(prior: Scores | None) -> list[float] | None:
    return None if prior is None else prior.values.tolist()


@dataclass(frozen=True)
class Odd:
    """Returns what the contract forbids."""

    what: str = "infinite"

    def score(self, pool: Pool) -> Any:
        n = len(pool.rows)
        return {
            "infinite": Scores(np.full(n, np.inf)),
            "short": Scores(np.zeros(n - 1)),
            "list": [0.0] * n,
            "words": Scores(np.array(["good"] * n)),  # type: ignore[arg-type]
            "groups": Scores(np.zeros(n), groups=np.zeros(n)),  # type: ignore[arg-type]
            "reasons": Scores(np.zeros(n), reasons=["why"]),
            "facts": Scores(
                np.zeros(n),
                facts={"a": np.float32(1.5), "b": np.int64(2), "c": math.nan, "d": {"e": np.array([1, 2])}},
            ),
        }[self.what]


@dataclass(frozen=True)
class Lengths:
    """Characters of a row; notes what it computes, and takes its time.

    The third shard is computed when there is no file ``hold`` any more.
    """

    log: str
    pause: float
    hold: str = ""
    shard_rows: ClassVar[int] = 16

    def spec(self) -> Mapping[str, str]:
        return {}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        with Path(self.log).open("a") as file:
            file.write(json.dumps(sorted(row.text for row in rows)) + "\n")
        time.sleep(self.pause)
        while self.hold and Path(self.hold).exists() and len(Path(self.log).read_text().splitlines()) == 3:
            time.sleep(0.01)
        return np.array([len(row.text) for row in rows], np.int64)


@dataclass(frozen=True)
class Slow:
    """The longest rows, by a signal that takes its time."""

    log: str = "/dev/null"
    pause: float = 0.0
    hold: str = ""

    def score(self, pool: Pool) -> Scores:
        return Scores(pool.signal(Lengths(self.log, self.pause, self.hold)).astype(np.float64))
