"""Fits: folders that are named by rows and settings, and complete when they exist."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfilter.identity import place_name
from dfilter.store.disk import claim, disk_errors, settle, write_json
from dfilter.types import Fit

if TYPE_CHECKING:
    from dfilter.pool import Pool


def rows_hash(pool: Pool) -> str:
    """Return 16 hex digits that name the pool's rows by content, whatever their order."""
    words = np.ascontiguousarray(pool.rows.keys).view(">u8")
    ordered = pool.rows.keys[np.lexsort((words[:, 1], words[:, 0]))]
    return hashlib.blake2b(np.ascontiguousarray(ordered).tobytes(), digest_size=8).hexdigest()


def fitted(root: Path, fit: Fit, pool: Pool, length: int) -> tuple[Path, bool]:
    """Return a finished fit of at least ``length`` and whether it had to be computed.

    A fit without a natural length has length 0. A longer fit serves a shorter wish, because a prefix
    of it is the answer; a shorter one is handed to ``compute`` to continue from. A scratch folder
    that a killed run left is handed to ``compute`` as it is.
    """
    spec = {**fit.spec(), "rows": rows_hash(pool)}
    place = root / place_name(fit, spec, "fits")
    found = _long_enough(place, length)
    if found is not None:
        return found, False
    with disk_errors(place), claim(place / ".claim", wait=False) as mine:
        if mine:
            return _compute(place, spec, fit, pool, length)
    pool.progress.say(f"Another process is computing {place.name}; waiting for it.")
    with disk_errors(place), claim(place / ".claim", wait=True):
        found = _long_enough(place, length)
        return (found, False) if found is not None else _compute(place, spec, fit, pool, length)


def _compute(place: Path, spec: Mapping[str, object], fit: Fit, pool: Pool, length: int) -> tuple[Path, bool]:
    found = _long_enough(place, length)  # it may have been finished between the look and the claim
    if found is not None:
        return found, False
    if not (place / "spec.json").exists():
        write_json(place / "spec.json", {"class": type(fit).__name__, "spec": spec})
    scratch = place / f".part-{length}"
    scratch.mkdir(parents=True, exist_ok=True)
    shorter = [n for n in _lengths(place) if n < length]
    fit.compute(pool, scratch, place / str(max(shorter)) if shorter else None)
    final = place / str(length)
    settle(scratch, final)
    return final, True


def _long_enough(place: Path, length: int) -> Path | None:
    enough = [n for n in _lengths(place) if n >= length]
    return place / str(min(enough)) if enough else None


def _lengths(place: Path) -> list[int]:
    if not place.is_dir():
        return []
    return [int(p.name) for p in place.iterdir() if p.name.isdigit() and p.is_dir()]
