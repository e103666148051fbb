"""Where the tokens of a text lie, and the passages that a window reads of it one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Share of a window that is left free where a text is parted, so that parting it between words does not make
# a piece too long; cut within a word it may have a token more than before.
SLACK = 16
LONGEST_WORD = 32  # characters


@dataclass(frozen=True, slots=True)
class Spans:
    """Where a text's tokens lie.

    Attributes:
        places: (n, 2) characters from and to.
        unknown: (n,) which of them are the vocabulary's token for the unknown.
    """

    places: NDArray[np.int64]
    unknown: NDArray[np.bool_]

    @classmethod
    def of(
        cls, text: str, ids: Sequence[int], places: Sequence[tuple[int, int]] | None, unknown: int | None
    ) -> Spans:
        """Return the spans of a text's ids; of a tokenizer that tells no places, evenly laid."""
        if places is None:
            cuts = np.linspace(0, len(text), len(ids) + 1).astype(np.int64)
            found = np.stack([cuts[:-1], cuts[1:]], axis=1)
        else:
            found = np.array(places, np.int64).reshape(-1, 2)
        strange = np.zeros(len(ids), np.bool_) if unknown is None else np.array(ids, np.int64) == unknown
        return cls(found, strange)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def unknown_share(self) -> float:
        """Share of the characters under tokens that stand under the token for the unknown.

        Characters, because a run of an unknown script is one token whatever its length.
        """
        sizes = self.places[:, 1] - self.places[:, 0]
        total = int(sizes.sum())
        return float(sizes[self.unknown].sum() / total) if total else 0.0


def passages(text: str, spans: Spans, room: int) -> list[str]:
    """Part a text into the fewest pieces of about equal length that a window has room for, between words.

    Args:
        text: the text.
        spans: its tokens.
        room: tokens that a window has for it.
    """
    if len(spans) <= room:
        return [text]
    slack = room // SLACK
    count = -(-len(spans) // max(1, room - slack))
    marks = [round(at * len(spans) / count) for at in range(1, count)]
    cuts = [0, *(_between_words(text, spans, mark, -slack) for mark in marks), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]


def evenly(text: str, count: int) -> list[str]:
    """Part a text into so many pieces of about equal length, between words where there are blanks."""
    cuts = [0]
    for at in range(1, count):
        mark = round(at * len(text) / count)
        blank = text.find(" ", mark, mark + LONGEST_WORD)
        cuts.append(max(cuts[-1], blank if blank >= 0 else mark))
    return [text[start:stop] for start, stop in itertools.pairwise([*cuts, len(text)])]


def tail(text: str, spans: Spans, room: int) -> str:
    """Return the end of a text that a window has room for, from the beginning of a word on."""
    if len(spans) <= room:
        return text
    return text[_between_words(text, spans, len(spans) - room, room // SLACK) :]


def _between_words(text: str, spans: Spans, mark: int, most: int) -> int:
    """Return where the token at ``mark`` begins, or one that begins a word and is at most so far from it."""
    step = -1 if most < 0 else 1
    for at in range(mark, mark + most + step, step):
        if 0 < at < len(spans):
            start = int(spans.places[at, 0])
            if text[start : start + 1].isspace() or text[start - 1 : start].isspace():
                return start
    return int(spans.places[mark, 0])
