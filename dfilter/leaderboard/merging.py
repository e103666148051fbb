"""Cells of several comparisons in one table: what may stand together, and what is one cell twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.errors import FolderError
from dfilter.identity import difference
from dfilter.plaintext import looks_like
from dfilter.selector import meant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfilter.leaderboard.cells import Cell
    from dfilter.types import EvalResult


def same_protocol(cells: Sequence[Cell]) -> None:
    """Refuse cells that were not trained and evaluated in the same way.

    Raises:
        FolderError: names what differs.
    """
    first = cells[0]
    for cell in cells[1:]:
        differs = difference(dict(first.protocol), dict(cell.protocol))
        if differs:
            raise FolderError(
                "These comparisons followed different protocols and cannot share a table: "
                f"{'; '.join(differs)}. Compare folders of one protocol."
            )


def same_strategies(cells: Sequence[Cell]) -> None:
    """Refuse cells that stand under one name and were selected in different ways, or under two like it.

    Raises:
        FolderError: names the strategy and what differs.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(looks_like(cell.strategy), cell)
        if other.strategy != cell.strategy:
            raise FolderError(
                f"Two strategies are called '{cell.strategy}', in letters that look alike: "
                f"{other.strategy!a} and {cell.strategy!a}. Give one of them another name."
            )
        known = cell.selected_as and other.selected_as  # not made by hand, nor by an earlier version
        differs = difference(dict(other.selected_as), dict(cell.selected_as)) if known else []
        if differs:
            raise FolderError(
                f"These comparisons call two strategies '{cell.strategy}': {'; '.join(differs)}. Show them "
                "apart, or give one of them another name."
            )


def one_size_a_row(cells: Sequence[Cell]) -> None:
    """Refuse cells of one strategy and budget that stand beside references of several sizes.

    Raises:
        FolderError: names the strategy and the sizes.
    """
    sizes: dict[tuple[str, str], set[str]] = {}
    for cell in (cell for cell in cells if cell.results):
        sizes.setdefault((cell.strategy, cell.budget), set()).add(cell.against or cell.budget)
    for (strategy, budget), found in sizes.items():
        if len(found) > 1:
            raise FolderError(
                f"The seeds of strategy '{strategy}' at {budget} stand beside references of several sizes "
                f"({', '.join(sorted(found))}). Run the comparison again to mend it; several comparisons "
                "need the same seeds, or are shown apart."
            )


def one_spelling(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with budgets that mean the same, as 1k and 1000, spelt in one way."""
    texts = {text for cell in cells for text in (cell.budget, cell.against) if text}
    spelt = Counter(meant(text) for text in texts)

    def one(text: str) -> str:
        return meant(text) if spelt[meant(text)] > 1 else text

    return [replace(cell, budget=one(cell.budget), against=one(cell.against)) for cell in cells]


SELECTED = (
    "selected_as",
    "rows",
    "wanted",
    "short",
    "response_tokens",
    "trained_tokens",
    "median_response_length",
)


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with those that occur twice, in several comparisons of one protocol, once.

    Raises:
        FolderError: two cells of one strategy, budget and seed contradict each other; says in what.
    """
    found: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        key = (cell.strategy, cell.budget, cell.seed)
        found[key] = _joined(found[key], cell) if key in found else cell
    return list(found.values())


def _joined(one: Cell, two: Cell) -> Cell:
    """Return what two cells of one strategy, budget and seed say together."""
    if not (one.results and two.results):  # one of them failed
        return one if one.results else two
    apart = []
    for name in SELECTED:
        first, second = getattr(one, name), getattr(two, name)
        if name == "selected_as":
            apart += difference(dict(first), dict(second)) if first and second else []
        elif first is not None and second is not None and first != second:
            apart.append(f"{name.replace('_', ' ')} {first} and {second}")
    for name in one.results.keys() & two.results.keys():
        apart += _results_apart(name, one.results[name], two.results[name])
    if apart:
        raise FolderError(
            f"Strategy '{one.strategy}' at {one.budget}, seed {one.seed}, has two cells that contradict each "
            f"other: {'; '.join(apart)}. Show the comparisons apart, or leave one of them out."
        )
    return replace(one, results={**two.results, **one.results})


def _results_apart(name: str, one: EvalResult, two: EvalResult) -> list[str]:
    if set(one.prompts) != set(two.prompts):
        return [f"{name} has {len(one.prompts)} and {len(two.prompts)} prompts, not the same"]
    place = {prompt: index for index, prompt in enumerate(two.prompts)}
    other = two.values[[place[prompt] for prompt in one.prompts]]
    if np.allclose(one.values, other, rtol=1e-6, atol=1e-9, equal_nan=True):
        return []
    return [f"{name} is {_mean(one.values)} and {_mean(other)}"]


def _mean(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.6g} on average" if known.size else "missing"
