"""Processes that hold reservations: who this one is, and whether another one still lives.

On one machine the system's own word counts: a process number together with the moment when that process
began. Of processes elsewhere nobody can tell, so these keep a lease that they renew while they run.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LEASE_SECONDS = 180.0
RENEW_SECONDS = 30.0
GONE = frozenset("ZXx")  # states of a process that ended and was not waited for


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes:
        host: the machine since its last start, and the process numbers' realm.
        pid: the process number.
        born: when the process began; empty where the system does not tell.
    """

    host: str
    pid: int
    born: str


def this_process() -> Owner:
    """Return the process that asks."""
    pid = os.getpid()
    return Owner(_host(), pid, _born(pid) or "")


def is_alive(owner: Owner, lease: float, now: float) -> bool:
    """Return whether a process may still receive answers.

    Args:
        owner: the process.
        lease: until when it counts as alive where nobody can look, in seconds since 1970.
        now: the same clock.
    """
    if owner.host != _host():
        return now < lease
    if owner.born:
        return _born(owner.pid) == owner.born
    return now < lease and _exists(owner.pid)


@lru_cache(maxsize=1)
def _host() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # absent on other systems than Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine's start; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in GONE else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
