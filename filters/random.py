"""Random: the baseline that every other strategy has to beat (arXiv:2410.09335, arXiv:2410.15225)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from dfilter.selector import seeded
from dfilter.types import Scores

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset
    from dfilter.pool import Pool


@dataclass(frozen=True)
class Random:
    """A uniform draw without replacement.

    The score of a row is a hash of its content and the seed, uniform in [0, 1): the same rows are
    drawn whatever their order, and a larger budget adds to a smaller one. Identical rows are drawn
    independently of each other, told apart by the order of their ids.
    """

    paper: ClassVar[str] = "arXiv:2410.09335"
    deterministic: ClassVar[bool] = False
    reads: ClassVar[str] = "nothing but the content hash"

    def score(self, pool: Pool) -> Scores:
        """Return one number in [0, 1) a row."""
        # Another constant than the selector's: a draw must not agree with how it breaks ties.
        first, second = seeded(_told_apart(pool.rows), pool.seed)
        return Scores(((first ^ (second << np.uint64(1))) >> np.uint64(11)).astype(np.float64) / 2**53)


def _told_apart(rows: Dataset) -> NDArray[np.uint8]:
    """Return the rows' keys, (n, 16), with the copies of a row numbered into theirs."""
    words = np.array(rows.keys).view(np.uint64)
    _, group, counts = np.unique(words, axis=0, return_inverse=True, return_counts=True)
    copied = np.flatnonzero(counts[group.ravel()] > 1)
    ids = rows.take(copied).ids
    met: dict[int, int] = {}
    for place in sorted(range(len(copied)), key=lambda i: ids[i]):
        row = int(copied[place])
        number = met.get(int(group.ravel()[row]), 0)
        met[int(group.ravel()[row])] = number + 1
        words[row, 1] += np.uint64(number)
    return words.view(np.uint8)
