"""A third party's filter: one class, found by its entry point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dfilter import Example, Pool, Scores


@dataclass(frozen=True)
class Marks:
    """How often a mark stands in the response."""

    mark: str

    def spec(self) -> Mapping[str, Any]:
        return {"mark": self.mark}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        return np.array([row.response.count(self.mark) for row in rows], np.int64)


@dataclass(frozen=True)
class Questions:
    """Prefer responses that ask back."""

    deterministic: ClassVar[bool] = True
    most: int = 3
    mark: str = "?"

    def score(self, pool: Pool) -> Scores:
        """Return the number of question marks, at most ``most``."""
        asked = pool.signal(Marks(self.mark))
        return Scores(
            np.minimum(asked, self.most).astype(np.float64), reasons=[f"asks {n} times" for n in asked]
        )
