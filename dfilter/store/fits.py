"""Fits: folders that are named by rows and settings, sealed, and complete when they exist."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfilter.identity import kind_of
from dfilter.store.disk import claim, discard, disk_errors, keep_json, settle, sweep
from dfilter.store.notices import say_older
from dfilter.store.seal import flaw, seal
from dfilter.types import Fit

if TYPE_CHECKING:
    from dfilter.pool import Pool

PREFIX = "length-"


def rows_hash(pool: Pool) -> str:
    """Return 16 hex digits that name the pool's rows by content, whatever their order."""
    words = np.ascontiguousarray(pool.rows.keys).view(">u8")
    ordered = pool.rows.keys[np.lexsort((words[:, 1], words[:, 0]))]
    return hashlib.blake2b(np.ascontiguousarray(ordered).tobytes(), digest_size=8).hexdigest()


def fitted(root: Path, fit: Fit, pool: Pool, length: int) -> tuple[Path, bool]:
    """Return a finished fit of at least ``length``, verified, and whether it had to be computed.

    A fit without a natural length has length 0. A longer fit serves a shorter wish, because a prefix
    of it is the answer; a shorter one is handed to ``compute`` to continue from. A scratch folder
    that a killed run left is handed to ``compute`` as it is. A damaged fit is removed and computed again.
    """
    spec = {**fit.spec(), "rows": rows_hash(pool)}
    kind = kind_of(fit, "fits")
    place = root / kind.place(spec)
    with disk_errors(place):
        keep_json(place / "spec.json", kind.record(spec))
        found = _long_enough(place, length)
        if found is not None:
            return found, False
        with claim(place / ".claim", wait=False) as mine:
            if mine:
                return _compute(place, fit, pool, length)
        pool.progress.say(f"Another process is computing {place.name}; waiting for it.")
        with claim(place / ".claim", wait=True):
            return _compute(place, fit, pool, length)


def _compute(place: Path, fit: Fit, pool: Pool, length: int) -> tuple[Path, bool]:
    _clear(place, pool)
    found = _long_enough(place, length)  # it may have been finished between the look and the claim
    if found is not None:
        return found, False
    scratch = place / f".part-{length}"
    scratch.mkdir(parents=True, exist_ok=True)
    shorter = [n for n in _lengths(place) if n < length]
    fit.compute(pool, scratch, _folder(place, max(shorter)) if shorter else None)
    final = _folder(place, length)
    seal(scratch, _name(final))
    settle(scratch, final)
    for left in place.glob(".part-*"):  # the claim is ours, so nobody is at work on them
        if int(left.name.removeprefix(".part-")) <= length:
            shutil.rmtree(left)
    return final, True


def _clear(place: Path, pool: Pool) -> None:
    """Remove damaged fits and scratch files; the caller holds the claim."""
    sweep(place, "spec.json")
    for length in _lengths(place):
        folder = _folder(place, length)
        found = flaw(folder, _name(folder))
        if found:
            pool.progress.say(f"The stored fit {_name(folder)} is damaged ({found}); it is computed again.")
            discard(folder)
    say_older(pool.progress, place, "Fits")


def _long_enough(place: Path, length: int) -> Path | None:
    """Return the shortest whole fit of at least ``length``."""
    enough = (_folder(place, n) for n in sorted(_lengths(place)) if n >= length)
    return next((folder for folder in enough if not flaw(folder, _name(folder))), None)


def _folder(place: Path, length: int) -> Path:
    return place / f"{PREFIX}{length}"


def _name(folder: Path) -> str:
    """Return what a fit is sealed as."""
    return f"{folder.parent.name}/{folder.name}"


def _lengths(place: Path) -> list[int]:
    found = [(p, p.name.removeprefix(PREFIX)) for p in place.glob(f"{PREFIX}*")]
    return [int(length) for p, length in found if length.isdigit() and p.is_dir()]
