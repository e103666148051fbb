"""A signal and a fit that leave a line for each thing they compute; as a script, a process that asks for one.

python counting.py signal ROWS PAUSE LOG [OUT]     python counting.py fit ROWS PAUSE LOG LENGTH
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dfilter import Example, Message, Pool
from dfilter.data.dataset import Dataset


@dataclass(frozen=True)
class Characters:
    """Characters of a row's text, times a factor."""

    log: str
    pause: float = 0.0
    factor: int = 1
    shard_rows: ClassVar[int] = 16

    def spec(self) -> Mapping[str, int]:
        return {"factor": self.factor}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        note(self.log, sorted({row.text for row in rows}))
        time.sleep(self.pause)
        return np.array([self.factor * len(row.text) for row in rows], np.int64)


@dataclass(frozen=True)
class Squares:
    """0, 1, 4, ... as many as asked for, one file each; goes on from what it finds."""

    log: str
    pause: float = 0.0
    fails_at: int = -1

    def spec(self) -> Mapping[str, int]:
        return {}

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:
        length = int(folder.name.removeprefix(".part-"))
        for number in range(length):
            name = f"{number}.npy"
            if (folder / name).exists():
                continue
            if longer is not None and (longer / name).exists():
                (folder / name).write_bytes((longer / name).read_bytes())
                continue
            if number == self.fails_at:
                raise RuntimeError("out of squares")
            note(self.log, number)
            time.sleep(self.pause)
            part = folder / f".{name}.npy"
            np.save(part, np.array(number**2), allow_pickle=False)
            part.replace(folder / name)


def note(log: str, what: object) -> None:
    with Path(log).open("a") as file:
        file.write(json.dumps(what) + "\n")


def noted(log: Path) -> list[object]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def dataset(rows: int, copies: int = 0) -> Dataset:
    """Rows of 1 to 40 characters and more, in a scrambled order; the first ``copies`` come again."""
    order = [*np.random.default_rng(5).permutation(rows).tolist(), *range(copies)]
    return Dataset.from_rows(
        Example(str(i), (Message("user", f"q{n}"), Message("assistant", f"{n} " + "x" * (n % 40))), {})
        for i, n in enumerate(order)
    )


def meet() -> None:
    """Wait for the other processes that a test wants to begin at the same moment."""
    folder, _, number = os.environ.get("MEET", "").rpartition(":")
    if not folder:
        return
    Path(folder, str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < int(number):
        time.sleep(0.01)


def main() -> None:
    what, rows, pause, log, *rest = sys.argv[1:]
    pool = Pool(dataset(int(rows)))
    meet()
    if what == "signal":
        values = pool.signal(Characters(log, float(pause)))
        for out in rest:
            np.save(out, values, allow_pickle=False)
    else:
        sys.stdout.write(str(pool.fit(Squares(log, float(pause)), length=int(rest[0]))))


if __name__ == "__main__":
    main()
