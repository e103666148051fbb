"""What a comparison removes: what it made, and nothing that somebody put beside that."""

from __future__ import annotations

from pathlib import Path

from dfilter.leaderboard.cells import CELL, LAID_OUT, RESULTS, result_identity
from dfilter.leaderboard.jobs import IDENTITY, JOB, asked_of
from dfilter.record import RESULTS as OF_A_RUN
from dfilter.run_folder import STRATEGY
from dfilter.store.disk import discard
from dfilter.trained import TRAINED
from dfilter.types import Progress

MADE_HERE = (JOB, CELL, IDENTITY, STRATEGY)  # one of them is in all of ours
OURS = {*MADE_HERE, TRAINED, *OF_A_RUN, "model", "log.txt", "timings.json"}
SCRATCH = tuple(f".{name}" for name in ("claim", *OURS))  # as killed processes leave it


def made_here(folder: Path) -> bool:
    """Return whether a folder among the cells or selections is a comparison's own, not the user's."""
    laid_out = LAID_OUT.fullmatch(folder.name) is not None
    return laid_out and any((folder / name).is_file() for name in MADE_HERE)


def remove(folder: Path, progress: Progress) -> None:
    """Remove a cell or a selection; what somebody put into its folder is kept beside it, and said."""
    if folder.is_symlink():  # what it leads to is not ours
        folder.unlink()
        return
    _remove_results(folder)
    for path in list(folder.iterdir()):
        if path.name in OURS or path.name.startswith(SCRATCH):
            discard(path)
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        folder.rmdir()
        return
    names = (folder.with_name(f"{folder.name}-kept{number}") for number in ("", *range(2, 1000)))
    kept = next(name for name in names if not name.exists())
    folder.rename(kept)
    progress.say(f"{', '.join(left)} in {folder} was not made here; it is kept in {kept}.")


def _remove_results(cell: Path) -> None:
    """Remove the results of a cell; what no job asked for and nobody of ours wrote stays."""
    results = cell / RESULTS
    if results.is_symlink() or not results.is_dir():
        return
    asked = asked_of(cell) or {}
    for path in list(results.iterdir()):
        if path.stem in asked or path.name.startswith(".") or result_identity(path):
            discard(path)
    if not any(results.iterdir()):
        results.rmdir()
