"""Like with like: selections of as many rows may be of very different numbers of tokens.

The longest 150 of 3,000 Alpaca rows have four times the tokens of 150 random ones, and a model that was
trained on four times as much is better for that alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfilter.leaderboard.panel import Key, Panel
    from dfilter.leaderboard.verdicts import Row

UNLIKE = 1.5  # times as many tokens, or as few


def tokens_of(panel: Panel, key: Key, reference: str) -> dict[str, float]:
    """Return the fields of a row about tokens: its own over the reference's of its size, and the latter.

    Trained tokens are compared; ``equal_tokens`` are response tokens, as ``--keep`` takes them. What is not
    known is NaN.
    """
    theirs = panel.cells.get((reference, panel.size(key)), ())
    trained = [[c.trained_tokens for c in cells if c.trained_tokens] for cells in (panel.cells[key], theirs)]
    response = [cell.response_tokens for cell in theirs if cell.response_tokens]
    known = all(trained) and key[0] != reference
    return {
        "tokens_ratio": float(np.mean(trained[0]) / np.mean(trained[1])) if known else math.nan,
        "equal_tokens": float(np.mean(response)) if response and known else math.nan,
    }


def unlike(row: Row) -> bool:
    """Return whether a verdict is between selections whose trained tokens differ by more than a half."""
    known = bool(row.verdict) and math.isfinite(row.tokens_ratio)
    return known and not 1 / UNLIKE <= row.tokens_ratio <= UNLIKE


def in_words(row: Row, reference: str) -> str:
    """Return what the sentence above the table adds of it; empty where there is nothing to say."""
    return f"trained on {row.tokens_ratio:.2g} times {reference}'s tokens" if unlike(row) else ""


def equal_budgets(rows: Sequence[Row]) -> list[str]:
    """Return the budgets at which what the verdicts are about would be compared at equal tokens."""
    found = [row.equal_tokens for row in rows if unlike(row) and math.isfinite(row.equal_tokens)]
    sizes = [f"{tokens / 1000:.0f}ktok" if tokens >= 10_000 else f"{tokens:.0f}tok" for tokens in found]
    return list(dict.fromkeys(sizes))


def advice(rows: Sequence[Row]) -> list[str]:
    """Return the note that says how to compare at equal tokens; none where there is nothing to compare."""
    budgets = equal_budgets(rows)
    if not budgets:
        return []
    return [f"Verdicts above are not at equal tokens; the comparison with --keep {','.join(budgets)} is."]
