"""What the store says once in a process, however often it comes up."""

from __future__ import annotations

from pathlib import Path

from dfilter.store.disk import read_text
from dfilter.types import Progress

_looked: set[Path] = set()


def say_older(progress: Progress, place: Path, what: str) -> None:
    """Say that what an earlier version left beside ``place`` is not used; it was named by a class."""
    root = place.parent
    if root in _looked:
        return
    _looked.add(root)
    older = sorted(file.parent.name for file in root.glob("*/spec.json") if _is_older(file))
    if older:
        progress.say(
            f"{what} of an earlier version in {root} are not used. `dfilter cache` lists them, and "
            f"`dfilter cache remove {older[0]}` removes one."
        )


def _is_older(file: Path) -> bool:
    try:
        return '"class"' in read_text(file)[:200]
    except (OSError, ValueError):
        return False
