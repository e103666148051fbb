"""What the store holds, how large it is, and taking some of it away."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dfilter.errors import SettingsError, StoreError
from dfilter.pool import read_spec
from dfilter.store import home

AGE = re.compile(r"(\d+)\s*([hdw])")
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Entry:
    """One stored thing: ``kind`` is signals, fits, data, models or answers."""

    kind: str
    name: str
    path: Path
    bytes: int
    used: float
    settings: str


def entries(root: Path | None = None) -> list[Entry]:
    """Return everything stored, largest first."""
    root = root or home()
    found = [_entry(kind.name, place) for kind in _folders(root) for place in _folders(kind)]
    found += [_entry("file", f) for f in root.glob("*.sqlite")]
    return sorted(found, key=lambda e: -e.bytes)


def chosen(found: list[Entry], name: str | None, older_than: str | None) -> list[Entry]:
    """Return the entries with a name (or its beginning) that were not written for so long.

    Raises:
        SettingsError: the age is not understood, nothing is asked for, or nothing has the name.
    """
    if not name and not older_than:
        raise SettingsError("Say what to remove: a name as `dfilter cache` lists it, or --older-than 30d.")
    if name and not any(e.name.startswith(name) for e in found):
        raise SettingsError(f"Nothing is stored under '{name}'; `dfilter cache` lists the names.")
    if older_than:
        match = AGE.fullmatch(older_than.strip())
        if not match:
            raise SettingsError(f"Age '{older_than}' is not understood. Write 12h, 30d or 8w.")
        limit = time.time() - int(match[1]) * SECONDS[match[2]]
        found = [e for e in found if e.used < limit]
    # Answers were paid for: they go only when they are named.
    return [e for e in found if (e.name.startswith(name) if name else e.kind != "file")]


def remove(entry: Entry) -> None:
    """Delete one entry."""
    if entry.path.is_dir():
        shutil.rmtree(entry.path)
    else:
        entry.path.unlink()


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _entry(kind: str, place: Path) -> Entry:
    files = [f for f in place.rglob("*") if f.is_file()] if place.is_dir() else [place]
    stats = [f.stat() for f in files]
    try:
        settings = str(read_spec(place)["spec"]) if (place / "spec.json").exists() else ""
    except StoreError:
        settings = "unreadable"
    used = max((s.st_mtime for s in stats), default=place.stat().st_mtime)
    return Entry(kind, place.name, place, sum(s.st_size for s in stats), used, settings)
