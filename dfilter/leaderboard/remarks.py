"""What a table says of how its values came about: answers that were cut short, prompts not looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.leaderboard.measured import numbers
from dfilter.leaderboard.panel import same_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dfilter.leaderboard.cells import Cell
    from dfilter.leaderboard.panel import Panel


def remarks(panel: Panel) -> list[str]:
    """Return a sentence for each of them that holds for a metric."""
    name = panel.metric.name
    said = []
    shares = {key: _cut(panel, key) for key in panel.cells}
    cut = [f"{share:.0%} of {strategy} at {budget}" for (strategy, budget), share in shares.items() if share]
    if cut:
        said.append(
            f"{name}: answers cut at their limit of tokens (max_new_tokens), which are judged as they are: "
            f"{', '.join(cut)}."
        )
    said += [
        f"{name}: no rate at equal length for {strategy} at {budget}: all its answers differ from the "
        f"opponent's by one and the same length."
        for (strategy, budget), group in panel.cells.items()
        if panel.null is not None and same_gap(_gaps(group, name))
    ]
    results = [cell.results[name] for group in panel.cells.values() for cell in group]
    if any("harness" in result.facts for result in results):
        said.append(f"{name}: whether its questions occur in the selections was not looked for.")
    return said


def _gaps(group: Sequence[Cell], name: str) -> NDArray[np.float64]:
    """Return what is known of how much longer a strategy's answers are, over its seeds."""
    facts = [numbers(cell.results[name].facts.get("length_difference")) for cell in group]
    return np.array([gap for gaps in facts for gap in gaps], np.float64)


def _cut(panel: Panel, key: tuple[str, str]) -> float:
    """Return the share of a strategy's answers that were cut short, over its seeds."""
    facts = [cell.results[panel.metric.name].facts for cell in panel.cells[key]]
    counts: Any = [(told["cut"], told["answers"]) for told in facts if {"cut", "answers"} <= told.keys()]
    return float(sum(cut for cut, _ in counts) / max(1, sum(answers for _, answers in counts)))
