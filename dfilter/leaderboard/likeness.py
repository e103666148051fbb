"""Like with like: selections of as many rows may be of very different numbers of tokens.

The longest 150 of 3,000 Alpaca rows have four times the tokens of 150 random ones, and a model that was
trained on four times as much is better for that alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dfilter.leaderboard.cells import Cell
    from dfilter.leaderboard.panel import Key, Panel
    from dfilter.leaderboard.verdicts import Row

UNLIKE = 1.5  # times as many tokens, or as few
NEAR = 0.05  # what equal budgets may lead to, relative to each other


def tokens_of(panel: Panel, key: Key, reference: str) -> dict[str, float]:
    """Return the fields of a row about tokens: its own over the reference's of its size, and the latter.

    Trained tokens are compared; ``equal_tokens`` are those that ``--keep`` takes. What is not known is NaN;
    so are they where a budget would not make trainings equal: of so many steps whatever the rows, or where
    an epoch is chosen.
    """
    both = [panel.cells[key], panel.cells.get((reference, panel.size(key)), ())]
    ours, theirs = ([cell for cell in cells if cell.trained_tokens] for cells in both)
    if not (ours and theirs) or key[0] == reference:
        return {"tokens_ratio": math.nan, "equal_tokens": math.nan}
    trained, budget = (
        np.array([_mean(cells, of) for cells in (ours, theirs)]) for of in (_trained, _counted)
    )
    passes = trained / np.maximum(budget, 1)
    even = budget.all() and abs(passes[0] - passes[1]) <= NEAR * passes[1]
    return {
        "tokens_ratio": float(trained[0] / trained[1]),
        "equal_tokens": float(budget[1]) if even else math.nan,
    }


def _trained(cell: Cell) -> int:
    return cell.trained_tokens or 0


def _counted(cell: Cell) -> int:
    return cell.budget_tokens or cell.response_tokens or 0  # the latter alone in cells of an earlier version


def _mean(cells: Sequence[Cell], of: Callable[[Cell], int]) -> float:
    return float(np.mean([of(cell) for cell in cells]))


def unlike(row: Row) -> bool:
    """Return whether a verdict is between selections whose trained tokens differ by more than a half."""
    known = bool(row.verdict) and math.isfinite(row.tokens_ratio)
    return known and not 1 / UNLIKE <= row.tokens_ratio <= UNLIKE


def in_words(row: Row, reference: str) -> str:
    """Return what the sentence above the table adds of it; empty where there is nothing to say."""
    return f"trained on {row.tokens_ratio:.2g} times {reference}'s tokens" if unlike(row) else ""


def _comparable(row: Row) -> bool:
    """Return whether a budget in tokens would make equal what a verdict is between, and is not."""
    return unlike(row) and math.isfinite(row.equal_tokens)


def equal_budgets(rows: Sequence[Row]) -> list[str]:
    """Return the budgets at which what the verdicts are about would be compared at equal tokens."""
    found = [row.equal_tokens for row in rows if _comparable(row)]
    sizes = [f"{tokens / 1000:.0f}ktok" if tokens >= 10_000 else f"{tokens:.0f}tok" for tokens in found]
    return list(dict.fromkeys(sizes))


def advice(rows: Sequence[Row]) -> list[str]:
    """Return the note that says how to compare at equal tokens; none where there is nothing to compare."""
    budgets = equal_budgets(rows)
    if not budgets:
        return []
    named = dict.fromkeys(f"{row.strategy} at {row.budget}" for row in rows if _comparable(row))
    whose, keep = ", ".join(named), ",".join(budgets)
    return [f"Verdicts of {whose} are not at equal tokens; the comparison with --keep {keep} is."]
