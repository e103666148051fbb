"""The table of a comparison and the statistics under it, pure: cells in, verdicts out.

cells       one trained model of a comparison, read from and written to its folder
logs        values that were published elsewhere, as cells; logrows is their form
statistics  the estimators: two-way variance, Holm, equivalence, intervals
measured    what a set of cells says about one evaluation
differences two sets on the same prompts and seeds, and all that a difference is tested against
decision    the test that decides: interval, p and what it takes to be found, in one
flips       chance alone, where prompts are few or take few values
reach       what a table's test could have found
panel       all strategies of one evaluation, and their ranks
verdicts    better, worse, equivalent, inconclusive, over the whole table
board       the leaderboard of all that, with one sentence on top; table prints it
power       what a comparison can find before it is run
agreement   judges: both orders, kappa, length control
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfilter.leaderboard.board import Leaderboard, leaderboard

__all__ = ["Leaderboard", "leaderboard"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dfilter.leaderboard' has no attribute '{name}'")
    from dfilter.leaderboard import board  # scipy, which a cell's worker does not need

    return getattr(board, name)
