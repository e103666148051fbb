"""Results that no job of a comparison asked for: what people said of its models, brought into their cells.

Such a result names the trainings that it is about, so that it stands in no table of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dfilter.errors import FolderError
from dfilter.identity import digest
from dfilter.run_folder import recorded_identity
from dfilter.store.disk import read_text
from dfilter.store.seal import read_checked

BOUND = "imported_for"  # of a result's file: {name of a cell: digest of its training}, its own cell first


def binding(cells: Sequence[Path]) -> dict[str, Any]:
    """Return what a result's file says of the cells whose models were looked at; nothing without any."""
    return {BOUND: {cell.name: _training(cell) for cell in cells}} if cells else {}


def is_imported(path: Path) -> bool:
    """Return whether a result was imported, by what it says; whether it is whole is another question."""
    try:
        held = json.loads(read_text(path))
    except (OSError, ValueError):
        return False  # a file of the user's own
    return isinstance(held, dict) and BOUND in held


def refuse_foreign(cell: Path, results: Iterable[Path]) -> None:
    """Refuse results of a cell that were imported for other trainings than those that are here now.

    Raises:
        FolderError: with what to do.
    """
    for path in filter(is_imported, results):
        held = read_checked(path)
        named = held[BOUND] if held else {}
        there = {name: of for name, of in named.items() if (cell.parent / name).is_dir()}
        same = all(_training(cell.parent / name) == of for name, of in there.items())
        if next(iter(named), "") != cell.absolute().name or not same:
            why = "was imported for other trainings" if held else "is damaged"
            raise FolderError(f"{path} {why}; delete it, and import a sheet of the models as they are now.")


def _training(cell: Path) -> str:
    return digest(recorded_identity(cell), 16)
