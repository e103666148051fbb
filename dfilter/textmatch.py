"""Texts that say the same: near-duplicate prompts, rows set aside, test prompts inside training rows.

Everything here is lexical, so that it needs no model: a text is its lower-case words (characters where
a script has no blanks between words), and two texts are compared by the runs of words they share. A
paraphrase is not found. Where prompts are compared whole, signs are words too ("12 - 5", "C++").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfilter.segmentation import mostly_characters, words, words_and_signs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from dfilter.types import Example

SHINGLE = 5  # words; two prompts that differ in one word of twelve still share half of their runs
NEAR = 0.8  # Jaccard overlap of these runs from which on two prompts are near-duplicates
GRAM = 13  # words; the usual unit of contamination checks (GPT-3, arXiv 2005.14165, appendix C)
CHARACTERS = 2  # that count as a word there: words of Chinese have 1.6 on average, of Japanese and Thai more


def runs(tokens: Sequence[str], length: int) -> set[int]:
    """Return hashes of all runs of ``length`` words; empty for a shorter text."""
    joined = (" ".join(tokens[at : at + length]) for at in range(len(tokens) - length + 1))
    return {text_hash(run) for run in joined}


def text_hash(text: str) -> int:
    """Return the first 64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class NearIndex:
    """Finds near-duplicates of a set of texts: equal words, or runs of five words that mostly agree.

    Args:
        texts: what is looked for.
        near: Jaccard overlap from which on two texts count as near-duplicates.
        read: takes a text apart.
    """

    def __init__(
        self, texts: Iterable[str], near: float = NEAR, read: Callable[[str], list[str]] = words
    ) -> None:
        self.near = near
        self.read = read
        self.exact: dict[str, int] = {}
        self.sizes: list[int] = []
        self.places: dict[int, list[int]] = {}
        for text in texts:
            self._add(read(text))

    def _add(self, tokens: list[str]) -> int:
        index = len(self.sizes)
        self.exact.setdefault(" ".join(tokens), index)
        found = runs(tokens, SHINGLE)
        self.sizes.append(len(found))
        for run in found:
            self.places.setdefault(run, []).append(index)
        return index

    def find(self, text: str) -> int | None:
        """Return the index of the first text that ``text`` repeats, or none."""
        return self._find(self.read(text))

    def _find(self, tokens: list[str]) -> int | None:
        same = self.exact.get(" ".join(tokens))
        if same is not None:
            return same
        found = runs(tokens, SHINGLE)
        shared: dict[int, int] = {}
        for run in found:
            for index in self.places.get(run, ()):
                shared[index] = shared.get(index, 0) + 1
        near = (
            index
            for index, count in shared.items()
            if count >= self.near * (len(found) + self.sizes[index] - count)
        )
        return min(near, default=None)

    def find_or_add(self, text: str) -> int:
        """Return the index of the text that ``text`` repeats; add it where there is none."""
        tokens = self.read(text)
        found = self._find(tokens)
        return self._add(tokens) if found is None else found


def clusters(texts: Iterable[str], near: float = NEAR) -> list[int]:
    """Return a label per text; near-duplicates of an earlier text take its label, whatever their signs."""
    index = NearIndex((), near)
    return [index.find_or_add(text) for text in texts]


@dataclass(frozen=True, eq=False)
class SetAside:
    """Rows divided before any strategy sees them; every row is in exactly one part.

    Attributes:
        pool: indices of the rows that stay, ascending.
        heldout: indices of the rows to measure on, ascending.
        repeats: indices of rows that repeat the prompt of a held-out row; they are in neither part.
    """

    pool: NDArray[np.int64]
    heldout: NDArray[np.int64]
    repeats: NDArray[np.int64]


def set_aside(rows: Sequence[Example], share: float, *, seed: int = 0, near: float = NEAR) -> SetAside:
    """Set a share of the rows aside together with all near-duplicates of their prompts.

    Which rows are drawn depends on their content and the seed, not on their order or on the rest of
    the file. Repeats are found by their words and signs alone (see the module).

    Args:
        rows: all rows.
        share: of the rows, above 0 and below 1; at least one row is held out.
        seed: another seed draws other rows.
        near: Jaccard overlap of five-word runs from which on two prompts are near-duplicates.

    Raises:
        ValueError: the share is not between 0 and 1, or there are fewer than two rows.
    """
    if not 0 < share < 1 or len(rows) < 2:
        raise ValueError(
            f"A share between 0 and 1 of two rows or more was expected, not {share} of {len(rows)}."
        )
    salt = seed.to_bytes(8, "big", signed=True)
    rank = [hashlib.blake2b(row.key + salt, digest_size=8).digest() for row in rows]
    drawn = sorted(range(len(rows)), key=lambda at: (rank[at], at))[: max(1, int(len(rows) * share))]
    index = NearIndex((), near, words_and_signs)
    held = []
    for at in drawn:
        before = len(index.sizes)
        if index.find_or_add(rows[at].prompt) == before:
            held.append(at)
    chosen = set(held)
    pool: list[int] = []
    repeats: list[int] = []
    for at, row in enumerate(rows):
        if at not in chosen:
            (pool if index.find(row.prompt) is None else repeats).append(at)
    parts = (np.array(part, dtype=np.int64) for part in (pool, sorted(held), repeats))
    return SetAside(*parts)


def contaminated(prompts: Sequence[str], rows: Iterable[Example]) -> NDArray[np.bool_]:
    """Return which test prompts occur in training rows.

    A prompt occurs when a row's prompt has the same words and signs, or when any 13 words in a row of it (26
    characters, where it is mostly of a script without blanks) stand anywhere in a row's prompt or
    response. Shorter prompts are only compared whole.

    Args:
        prompts: (n,) test prompts.
        rows: training rows.
    """
    tokens = [words(prompt) for prompt in prompts]
    whole: dict[str, list[int]] = {}
    grams: dict[int, list[int]] = {}
    lengths = [GRAM * CHARACTERS if mostly_characters(prompt) else GRAM for prompt in tokens]
    for index, prompt in enumerate(tokens):
        whole.setdefault(" ".join(words_and_signs(prompts[index])), []).append(index)
        for run in runs(prompt, lengths[index]):
            grams.setdefault(run, []).append(index)
    found = np.zeros(len(tokens), dtype=np.bool_)
    for row in rows:
        asked = words(row.prompt)
        found[whole.get(" ".join(words_and_signs(row.prompt)), [])] = True
        said = words(row.response)
        for length in set(lengths):
            for run in (runs(asked, length) | runs(said, length)) & grams.keys():
                found[grams[run]] = True
    return found
