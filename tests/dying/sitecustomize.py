"""Kills a process, with those it started, at its n-th change of a folder: a kill that strikes under any load.

A timer may strike before the work, after it, or never; the n-th change is reached on every machine. A file
that was opened for writing is there and empty, as it is where a kill comes before the first byte; any other
change has not happened. Python imports this file when it starts with this folder in PYTHONPATH (``Dying`` in
``tests/conftest.py``), so the processes that a command starts are counted too; a forked one calls
:func:`arm`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
STEP = "dying.step"  # a test may raise this audit event where something writes without Python's knowledge


def arm(folder: str, count: str, at: int) -> None:
    """Add a byte to the file ``count`` for each change under ``folder``; die at change ``at``; 0 is never.

    All processes of the session die, so it must be one of its own (``os.setsid``).
    """
    counted = os.open(count, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    dying = False
    root = os.path.abspath(folder) + os.sep  # noqa: PTH100 - pathlib would be imported into every process

    def within(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(root)  # noqa: PTH100

    def watch(event: str, args: tuple) -> None:
        nonlocal dying
        if dying:
            return
        if event == "open":
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and within(args[0])
        else:
            changes = event == STEP or (event in CHANGES and any(map(within, args[:2])))
        if changes:
            os.write(counted, b".")
            if 0 < at <= os.fstat(counted).st_size:
                dying = True
                if event == "open":
                    with contextlib.suppress(OSError):
                        os.open(args[0], args[2], 0o666)
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(watch)


if "DYING" in os.environ:
    arm(*os.environ["DYING"].split(os.pathsep)[:2], int(os.environ["DYING"].split(os.pathsep)[2]))
