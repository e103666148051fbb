"""Full: all rows, the other baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dfilter.types import Scores

if TYPE_CHECKING:
    from dfilter.pool import Pool


@dataclass(frozen=True)
class Full:
    """Every row, all alike."""

    paper: ClassVar[str] = ""
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "nothing"

    def score(self, pool: Pool) -> Scores:
        """Return 0 for every row; a budget smaller than the pool draws at random."""
        return Scores(np.zeros(len(pool.rows)))
