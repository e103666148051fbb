"""Random: the baseline that every other strategy has to beat (arXiv:2410.09335, arXiv:2410.15225)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dfilter.selector import seeded, told_apart
from dfilter.types import Scores

if TYPE_CHECKING:
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
        # The copies of a row differ in the second hash alone.
        _, second = seeded(told_apart(pool.rows.keys, pool.rows.ids), pool.seed)
        return Scores((second >> np.uint64(11)).astype(np.float64) / 2**53)
