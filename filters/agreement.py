"""Whether two rows say the same where their vectors do not tell all: by words, then piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dfilter.data.dataset import Dataset
from dfilter.embed.passages import evenly
from dfilter.embed.sentences import Embedding
from dfilter.pool import Pool, Store
from dfilter.sametext import PARTS, agreement
from dfilter.types import Example, Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE_TOKENS = 128  # of a text that is compared piece by piece: half of the smallest usual window

Agree = Callable[["NDArray[np.int64]", "NDArray[np.int64]"], "NDArray[np.bool_]"]


def agreeing(
    pool: Pool, embedding: Embedding, threshold: float, tokens: NDArray[np.int32], long: NDArray[np.bool_]
) -> Agree:
    """Return a function of two arrays of row numbers, (m,) each, that tells which pairs say the same, (m,).

    Their words must agree (:mod:`dfilter.sametext`), and where one of them is longer than a window, each of
    its pieces must be as near to the other's as near duplicates are.

    Args:
        pool: the rows.
        embedding: what embeds the pieces.
        threshold: least cosine of two pieces.
        tokens: (n,) the rows' lengths.
        long: (n,) rows that no window holds.
    """
    by_words = agreement(pool.rows, PARTS if embedding.text == "row" else PARTS[1:])
    quiet = Store(pool.store.folder, pool.store.executor)
    plain = replace(embedding, text="row", long="chunks")

    def agree(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = by_words(a, b)
        asked = np.flatnonzero(found & (long[a] | long[b]))
        if len(asked):
            counts = -(-np.maximum(tokens[a[asked]], tokens[b[asked]]) // PIECE_TOKENS)
            found[asked] = least_cosines(a[asked], b[asked], counts) >= threshold
        return found

    def least_cosines(
        a: NDArray[np.int64], b: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the least cosine of two pieces at one place, of rows parted into so many, (m,)."""
        sides = np.concatenate([np.stack([a, counts]), np.stack([b, counts])], axis=1)
        parted, which = np.unique(sides, axis=1, return_inverse=True)
        pieces = [
            piece.strip() or "-"
            for at, count in parted.T.tolist()
            for piece in evenly(embedding.reads(pool.rows[at])[0], count)
        ]
        rows = [Example(str(at), (Message("assistant", text),), {}) for at, text in enumerate(pieces)]
        vectors = Pool(Dataset.from_rows(rows), store=quiet).signal(plain).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        starts = np.cumsum([0, *parted[1][:-1]])[which.reshape(-1)]
        least = np.ones(len(a))
        for place in range(int(counts.max())):
            some = np.flatnonzero(counts > place)
            one, other = (vectors[part[some] + place] for part in (starts[: len(a)], starts[len(a) :]))
            least[some] = np.minimum(least[some], np.einsum("ij,ij->i", one, other))
        return least

    return agree
