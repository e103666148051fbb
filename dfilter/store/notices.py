"""What the store says once in a process, however often it comes up."""

from __future__ import annotations

from dfilter.types import Progress

_said: set[str] = set()


def once(progress: Progress, line: str, about: object) -> None:
    """Say a line, unless one about the same was said before."""
    if str(about) not in _said:
        _said.add(str(about))
        progress.say(line)
