"""Reading grades: one of several declared words, or whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dfilter.llm.answers import Reading, Reply
from dfilter.llm.grammar import verdict
from dfilter.llm.reading import settled
from dfilter.llm.scales import Numbers, Values, Words

Scale: TypeAlias = Literal["likert", "quality", "safety"]

# LIMA (arXiv 2305.11206): helpfulness from 1 to 6, five answers a prompt at p 0.9 and T 0.7 (§5);
# fail, pass or excellent (§4); safe or unsafe (§4.3).
SCALES: dict[Scale, tuple[tuple[str, float], ...]] = {
    "likert": tuple((str(grade), float(grade)) for grade in range(1, 7)),
    "quality": (("fail", 0.0), ("pass", 0.5), ("excellent", 1.0)),
    "safety": (("unsafe", 0.0), ("safe", 1.0)),
}


@dataclass(frozen=True)
class OneOf:
    """Reads one of several words, or whole numbers, where a score may stand (see ``grammar``).

    Attributes:
        values: word to value; no other word is a grade.
        kind: for the name, which is kept beside every reading.
    """

    values: tuple[tuple[str, float], ...]
    kind: str

    @property
    def name(self) -> str:
        """Kind and version."""
        return f"{self.kind}/2"

    def read(self, reply: Reply) -> Reading:
        """Return the word's value, or why there is none."""
        scale = scale_of(self.values)
        return settled(reply, lambda text, cut: verdict(text, scale, cut=cut))


def scale_of(words: tuple[tuple[str, float], ...]) -> Values:
    """Return the scale that words make: of whole numbers where they are all of them from one to another."""
    numbers = sorted(value for _, value in words)
    gapless = numbers == [numbers[0] + step for step in range(len(numbers))]
    if gapless and all(word.isdecimal() and float(word) == value for word, value in words):
        return Numbers(numbers[0], numbers[-1], whole=True)
    return Words(words)
