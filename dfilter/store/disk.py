"""Files that are either whole or absent, and locks that a killed process cannot leave behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dfilter.errors import StoreError

# A folder where a file belongs, a file where a folder belongs, a link that leads nowhere.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
MISPLACED = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's complaints about ``place`` into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            why = "allows no larger files" if error.errno == errno.EFBIG else "is full"
            raise StoreError(
                f"The disk that holds {place} {why}. Free some space (`dfilter cache` shows what is stored), "
                f"or {_elsewhere(place)}; the same command then continues."
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise StoreError(
                f"{place} cannot be written: {error.strerror}. Another place helps: {_elsewhere(place)}."
            ) from error
        if error.errno in MISPLACED:
            raise StoreError(
                f"{error.filename or place} is no file or folder of ours ({error.strerror}). Move it away; "
                "the same command then continues."
            ) from error
        raise


def _elsewhere(place: Path) -> str:
    from dfilter.store import home

    inside = place.absolute().is_relative_to(home().absolute())
    return "set DFILTER_HOME to another disk" if inside else "choose another folder with -o"


def discard(path: Path) -> None:
    """Remove whatever answers to a path: a folder with what is in it, a file, or a link and not its end."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def regular(path: Path) -> Path:
    """Return the path of a file that may be opened: a pipe would let us wait for ever.

    Raises:
        OSError: it is absent, or no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "It is no regular file", str(path))
    return path


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        OSError: it is absent, or no regular file.
        UnicodeDecodeError: it is no UTF-8.
    """
    return regular(path).read_text(encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text so that ``path`` is never seen half written, and nothing that it links to is touched."""
    with beside(path) as part:
        part.write_text(text, encoding="utf-8")
        sync(part)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(scratch: Path, final: Path) -> bool:
    """Flush the files of ``scratch`` and rename it to ``final``.

    Returns:
        False when ``final`` was there already (another process was faster); ``scratch`` then stays.
    """
    for file in scratch.rglob("*"):
        sync(file)
    sync(scratch)
    try:
        scratch.rename(final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    sync(final.parent)
    return True


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` so that ``path`` is never seen half written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def keep_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` unless the file holds it; a damaged file is written anew."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        whole = regular(path).read_bytes() == text.encode()
    except OSError:  # absent, or no file at all
        whole = False
    if not whole:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name to write under; it takes the path's place when the block ends well.

    What killed processes left under such names is removed.
    """
    sweep(path.parent, path.name)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        if path.is_dir():  # somebody put a folder there
            discard(path)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, name: str) -> None:
    """Remove what processes that are gone left when they wrote ``folder / name``: ``.NAME.PID``."""
    for left in folder.glob(f".{glob.escape(name)}.*"):
        pid = left.name.rpartition(".")[2]
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def make_folder(folder: Path) -> None:
    """Make a folder unless it is there.

    Raises:
        StoreError: the file system makes no folders, as /proc does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise StoreError(f"{folder} cannot be made there; choose another folder.") from error


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file ``path``; yields whether it is ours.

    The kernel drops the lock with the process, however that ends. Whoever obtains the lock must look
    again whether the work is done already.
    """
    make_folder(path.parent)
    handle = _locked(path, wait=wait)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path, *, wait: bool) -> int | None:
    """Return the open, locked file, or none when another process holds it.

    The holder removes the file before it lets go, so a lock obtained by waiting may be on a file that
    is gone; a third process would then lock a new one beside it. Only the file at ``path`` counts.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
