"""Folders that can be made again at any time: filled once, sealed, and made again when they are damaged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from dfilter.store.disk import claim, discard, disk_errors, settle
from dfilter.store.seal import flaw, seal


def ensure(place: Path, fill: Callable[[Path], object], say: Callable[[str], None]) -> Path:
    """Return a whole folder; where there is none, ``fill`` writes it.

    Args:
        place: the folder; its own name is its seal's.
        fill: writes everything into the folder it is given, which is renamed when it is done.
        say: hears that a damaged one is made again.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    if not flaw(place, place.name):
        return place
    with disk_errors(place.parent), claim(place.with_name(f".{place.name}.claim"), wait=True):
        wrong = flaw(place, place.name)
        if place.exists() and wrong:
            say(f"{place} is damaged ({wrong}); it is made again.")
            discard(place)
        if wrong:
            _fill(place, fill)
    return place


def _fill(place: Path, fill: Callable[[Path], object]) -> None:
    for left in place.parent.glob(f".{place.name}-*"):  # a killed process's: the claim is ours
        shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        fill(scratch)
        seal(scratch, place.name)
        settle(scratch, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
