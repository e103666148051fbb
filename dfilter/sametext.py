"""Whether two long rows say the same, told by their words: what one vector of a long text does not show.

Two texts say the same if every stretch of either is found in the other, however long both are. So rows that
share a long beginning and differ in a short question do not, and neither do rows that differ in one passage
of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dfilter.segmentation import words_and_signs
from dfilter.textmatch import text_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.types import Example

RUN = 3  # words; a changed word changes so many runs, at the ends too, beyond which nothing stands
STRETCH = 24  # runs that must agree among themselves: one changed word in them is let pass, two are not
EDGE = 10  # runs at either end that must, where a question of its own stands before or behind a shared text
AGREE = 0.85  # share of them that the other text has
SKETCH = 16  # smallest hashes of a text's runs, a cheap look before the words are compared
ALIKE = 4  # of them must be equal; of texts that agree so much, fewer are with a probability of 1e-6
PAIRS = 1 << 15  # whose sketches are compared at once
PARTS = ("response", "asked", "earlier", "system")  # what differs most often first
ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


@dataclass(frozen=True, slots=True)
class Said:
    """What one speaker says in a row.

    Attributes:
        tokens: the words and signs, joined by blanks.
        runs: (m,) hashes of all runs of :data:`RUN` words, in order, those over the ends included.
        known: the same, sorted, each once.
    """

    tokens: str
    runs: NDArray[np.uint64]
    known: NDArray[np.uint64]

    @classmethod
    def of(cls, text: str) -> Said:
        """Take a text apart."""
        tokens = words_and_signs(text)
        around = [""] * (RUN - 1) if tokens else []
        hashes = np.array([_hash(token) for token in [*around, *tokens, *around]], np.uint64)
        count = max(0, len(hashes) - RUN + 1)
        runs = np.zeros(count, np.uint64)
        for at, odd in enumerate(ODD):
            runs ^= (hashes[at : at + count] * odd) ^ ((hashes[at : at + count] * odd) >> np.uint64(29 - at))
        return cls(" ".join(tokens), runs, np.unique(runs))

    def within(self, other: Said) -> bool:
        """Return whether every stretch of this is found in the other."""
        if self.tokens == other.tokens:
            return True
        if not len(self.runs) or not len(other.known):
            return False
        at = np.minimum(np.searchsorted(other.known, self.runs), len(other.known) - 1)
        found = np.concatenate([[0], np.cumsum(other.known[at] == self.runs)])
        size, edge = (min(most, len(self.runs)) for most in (STRETCH, EDGE))
        ends = found[edge] - found[0], found[-1] - found[-1 - edge]
        return bool(min(ends) >= AGREE * edge and (found[size:] - found[:-size] >= AGREE * size).all())


def sketch(runs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return (SKETCH,) smallest hashes of some runs, each under another order; zeros where there are none.

    Two sets of runs have as large a share of them in common as they have runs (MinHash).
    """
    if not len(runs):
        return np.zeros(SKETCH, np.uint64)
    orders = (2 * np.arange(1, SKETCH + 1, dtype=np.uint64) + np.uint64(1)) * ODD[0]
    mixed = runs[:, None] * orders
    smallest: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))).min(axis=0)
    return smallest


_hash = lru_cache(maxsize=1 << 16)(text_hash)


@dataclass(frozen=True, slots=True)
class Turns:
    """The parts of a row, which must agree one by one."""

    response: Said
    asked: Said
    earlier: Said
    system: Said
    tools: str

    @classmethod
    def of(cls, row: Example) -> Turns:
        """Take a row apart: reply, last question, all turns before it, system turns, definitions of tools."""
        before = [turn.content for turn in row.before if turn.role != "system"]
        texts = (row.response, before[-1] if before else "", "\n\n".join(before[:-1]), row.system)
        response, asked, earlier, system = map(Said.of, texts)
        return cls(response, asked, earlier, system, row.tools)

    def sketches(self) -> NDArray[np.uint64]:
        """Return (3, SKETCH): of the reply, and of how the last question begins and ends."""
        return np.stack(
            [sketch(part) for part in (self.response.runs, self.asked.runs[:EDGE], self.asked.runs[-EDGE:])]
        )

    def agree(self, other: Turns, parts: Sequence[str] = PARTS) -> bool:
        """Return whether both rows have the same tools and say the same in these parts."""
        if self.tools != other.tools:
            return False
        for name in parts:
            mine, theirs = getattr(self, name), getattr(other, name)
            if not (mine.within(theirs) and theirs.within(mine)):
                return False
        return True


def agreement(
    rows: Sequence[Example], parts: Sequence[str] = PARTS
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]:
    """Return a function of two arrays of row numbers, (m,) each, that tells which pairs say the same, (m,).

    Rows are taken apart when they are first asked about, once.

    Args:
        rows: all rows.
        parts: which of :data:`PARTS` must agree.
    """
    taken: dict[int, tuple[Turns, NDArray[np.uint64]]] = {}
    looks = slice(0 if "response" in parts else 1, None)

    def known(at: int) -> tuple[Turns, NDArray[np.uint64]]:
        if at not in taken:
            turns = Turns.of(rows[at])
            taken[at] = turns, turns.sketches()[looks]
        return taken[at]

    def agree(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not len(a):
            return np.zeros(0, np.bool_)
        asked, place = np.unique(np.concatenate([a, b]), return_inverse=True)
        sketches = np.stack([known(at)[1] for at in asked.tolist()])
        alike = np.zeros(len(a), np.bool_)
        for cut in range(0, len(a), PAIRS):
            one, other = place[: len(a)][cut : cut + PAIRS], place[len(a) :][cut : cut + PAIRS]
            equal = (sketches[one] == sketches[other]).sum(axis=2)
            alike[cut : cut + PAIRS] = (equal >= ALIKE).all(axis=1)
        for pair in np.flatnonzero(alike).tolist():
            alike[pair] = known(int(a[pair]))[0].agree(known(int(b[pair]))[0], parts)
        return alike

    return agree
