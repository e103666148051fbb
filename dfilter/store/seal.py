"""Sealed folders: a list of their files with sizes and checksums, and what is wrong with one that has it.

{"format": 1, "name": ..., "files": {"path/in/folder": [bytes, CRC-32]}, "checksum": of the list itself}
"""

from __future__ import annotations

import json
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dfilter.digests import by_state
from dfilter.store.disk import read_text, sync, write_text

FORMAT = 1
BLOCK = 1 << 20


def seal(folder: Path, name: str, into: str = "seal.json", only: Collection[str] | None = None) -> None:
    """Write the sealed list of the files of a folder, whatever their depth.

    Names that begin with a dot are scratch and no part of it.

    Args:
        folder: the folder; its files are flushed.
        name: what the folder is; a seal of another name is none.
        into: the list's file, which is no part of it.
        only: paths in the folder; others are no part of it either, as where users put files of their own.

    Raises:
        OSError: a file cannot be read or the list not be written.
    """
    files = {}
    for file in _files(folder):
        path = file.relative_to(folder).as_posix()
        if path != into and (only is None or path in only):
            sync(file)
            files[path] = list(_checksum(file))
    write_checked(folder / into, {"format": FORMAT, "name": name, "files": files})


def flaw(folder: Path, name: str, into: str = "seal.json") -> str:
    """Return what is wrong with a sealed folder in a few words; "" when it is whole.

    A file is read again only when its size, times or inode changed. Files that are not in the list
    are not looked at.
    """
    if not (folder / into).is_file():
        return f"{into} is missing"
    held = read_checked(folder / into)
    if held is None:
        return f"{into} is damaged"
    if (held.get("format"), held.get("name")) != (FORMAT, name):
        return f"{into} is of format {held.get('format')} for {held.get('name')}"
    found = (_difference(folder, path, *state) for path, state in held["files"].items())
    return next(filter(None, found), "")


def _difference(folder: Path, path: str, size: int, checksum: int) -> str:
    try:
        state = (folder / path).stat()
        if not stat.S_ISREG(state.st_mode):
            return f"{path} is no regular file"
        if state.st_size != size:
            return f"{path} has another size"
        return "" if _checksum(folder / path) == (size, checksum) else f"{path} has another content"
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return f"{path} is missing" if missing else f"{path} cannot be read ({error.strerror})"


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with a checksum of its own, so that ``path`` is never seen half written."""
    text = json.dumps({**value, "checksum": _own(value)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_checked(path: Path) -> dict[str, Any] | None:
    """Return what :func:`write_checked` wrote; none when it is absent or not what was written."""
    try:
        text = read_text(path)
        held = json.loads(text)
        value = {key: held[key] for key in held if key != "checksum"}
        whole = held["checksum"] == _own(value)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    again = json.dumps(held, indent=1, ensure_ascii=False) + "\n"
    return value if whole and again == text else None  # equal values written otherwise: a byte changed


def _own(value: Mapping[str, Any]) -> int:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return zlib.crc32(text.encode(errors="surrogatepass"))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _read(file: Path) -> tuple[int, int]:
    """Return a file's size and CRC-32."""
    size = checksum = 0
    with file.open("rb") as raw:
        while block := raw.read(BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return size, checksum


_checksum = by_state(_read)
