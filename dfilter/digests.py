"""Digests of files and folders: what something says, wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from dfilter.errors import InputError

T = TypeVar("T")
# A file that changed within this time may change again within the same tick of its clock, and its state
# would not show it.
SETTLED_NS = 2_000_000_000


def state_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does: size, times in ns, inode and device."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def is_settled(state: Sequence[int], taken: int) -> bool:
    """Return whether a file whose state was taken then, in ns since 1970, shows every later change."""
    return taken - max(state[1], state[2]) > SETTLED_NS


def by_state(read: Callable[[Path], T], most: int = 65_536) -> Callable[[Path], T]:
    """Return ``read`` with a memory: a file that did not change since is not read again."""

    @lru_cache(maxsize=most)
    def remembered(path: str, *_state: int) -> T:
        return read(Path(path))

    def looked(path: Path) -> T:
        state = state_of(path)
        known = is_settled(state, time.time_ns())
        return remembered(str(path.absolute()), *state) if known else read(path)

    return looked


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_seen_sha256 = by_state(_sha256)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex; a file that did not change since is not read again."""
    return _seen_sha256(path)


def folder_sha256(folder: Path, counts: Callable[[Path], bool] = lambda _: True) -> str:
    """Return a SHA-256 over the names and contents of a folder's files, those in its folders and links too.

    Args:
        folder: files and folders in it that begin with a dot are left out.
        counts: tells of a path relative to ``folder`` whether the file is one of them.
    """
    inside = sorted(path.relative_to(folder) for path in _files(folder))
    names = [p for p in inside if not any(part.startswith(".") for part in p.parts) and counts(p)]
    listed = [(name.as_posix(), file_sha256(folder / name)) for name in names]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield a folder's files to the bottom; a link to a folder that holds it is not followed."""
    above |= {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and os.path.realpath(path) not in above:
            yield from _files(path, above)


def path_sha256(path: Path) -> str:
    """Return the digest of a file or of a folder.

    Raises:
        InputError: it is there, but cannot be read.
    """
    try:
        return folder_sha256(path) if path.is_dir() else file_sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def json_digest(value: Any, size: int = 8) -> str:
    """Return the hex digest of a JSON value, whatever the order of its keys.

    Args:
        value: anything that JSON can say.
        size: bytes of the digest.

    Raises:
        ValueError: the value holds NaN, infinity, or something that is not JSON.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
