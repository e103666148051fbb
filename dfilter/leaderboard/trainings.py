"""What a table says of its trainings: rows that were cut short, epochs that were chosen, and warnings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfilter.leaderboard.cells import Cell

_FIGURES = re.compile(r"[\d.,]*\d")


def of_trainings(cells: Sequence[Cell]) -> list[str]:
    """Return a sentence for each of them that holds for a cell."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(f"{cell.strategy} at {cell.budget}", []).append(cell)
    said = []
    cut = [f"{_share(part)} of {name}" for name, group in groups.items() if (part := _cut_rows(group))]
    if cut:
        said.append(
            "Training: rows that lost the end of a response, being longer than the recipe's max_tokens or "
            f"the model's window: {', '.join(cut)}."
        )
    chosen = [
        f"{', '.join(epoch.removeprefix('epoch-').lstrip('0') for epoch in epochs)} of {name}"
        for name, group in groups.items()
        if (epochs := [cell.chosen for cell in group if cell.chosen])
    ]
    if chosen:
        said.append(
            "Training: the result is the epoch that the development set chose, by seed: "
            f"{'; '.join(chosen)}. Trained tokens are those up to it."
        )
    return [*said, *_warned(cells)]


def alike(sentence: str) -> str:
    """Return a sentence without its figures, in which those of several trainings may differ."""
    return _FIGURES.sub("0", sentence)


def _warned(cells: Sequence[Cell]) -> list[str]:
    """Return each warning once, with the strategies that it holds for unless it holds for all."""
    trained = [cell for cell in cells if not cell.failed]
    held: dict[str, list[tuple[str, Cell]]] = {}
    for cell in trained:
        for sentence in dict.fromkeys(cell.warnings):
            held.setdefault(alike(sentence), []).append((sentence, cell))
    said = []
    for found in held.values():
        first = found[0][0]
        where = dict.fromkeys(f"{cell.strategy} at {cell.budget}" for _, cell in found)
        of = "" if len({id(cell) for _, cell in found}) == len(trained) else f" of {', '.join(where)}"
        others = sum(sentence != first for sentence, _ in found)
        said.append(
            f"Training{of}: {first}" + (f" (So in {others} more, with other figures.)" if others else "")
        )
    return said


def _share(part: float) -> str:
    return "under 1%" if part < 0.01 else f"{part:.0%}"


def _cut_rows(cells: Sequence[Cell]) -> float:
    """Return the share of the rows that were trained short, over the seeds."""
    known = [(cell.cut_rows, cell.rows) for cell in cells if cell.cut_rows is not None and cell.rows]
    return sum(cut for cut, _ in known) / max(1, sum(rows for _, rows in known))
