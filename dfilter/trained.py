"""What a cell's trainer says of its training, kept with a checksum from the moment that it ends.

A trainer leaves ``model/training.json``, and nobody looks at a finished model again: what becomes of that
file later is in no table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfilter.leaderboard.cells import of_training, without_nan
from dfilter.store.disk import read_text
from dfilter.store.seal import differs, read_checked, write_checked

TRAINED = "trained.json"


def keep(cell: Path) -> None:
    """Keep the figures of a training that has ended; what was kept of it before stays."""
    if read_checked(cell / TRAINED) is None:
        write_checked(cell / TRAINED, without_nan(said(cell)))


def kept(cell: Path) -> dict[str, Any] | None:
    """Return the figures that were kept, by the names of a cell; none where they are absent or damaged."""
    found = read_checked(cell / TRAINED)
    return found and found | {"warnings": tuple(found["warnings"])}


def said(cell: Path) -> dict[str, Any]:
    """Return the figures in the trainer's own file, unless it is not what the trainer sealed."""
    model = cell / "model"
    try:
        told = json.loads(read_text(model / "training.json"))
    except (OSError, ValueError):
        told = None
    whole = isinstance(told, dict) and not differs(model, "training.json", into="done")
    return of_training(told if whole else {})
