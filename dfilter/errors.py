"""Every error that dfilter raises on purpose, and the exit code that goes with it.

    DFilterError                 2   bad input or settings
    ├── InputError               2   a file or its rows cannot be used
    ├── SettingsError            2   a strategy, a flag or a setting is wrong; may carry several findings
    │   └── UnknownNameError     2   a name that nothing answers to; lists the known ones and the nearest
    ├── MissingPackageError      2   an optional package is absent; names the exact install command
    ├── ModelError               2   weights cannot be found, or are not the published ones
    ├── FolderError              2   a run folder is finished, foreign, or of other settings
    ├── StoreError               2   the store of signals and fits cannot be read or written
    │   ├── DamagedError         2   a stored file is not what was written
    │   └── OtherFormatError     2   a stored file is of another version, or none of ours
    ├── ServerError              1   a language-model server refused, or never answered
    ├── CheckError               1   a check, a gate or a limit said no
    └── Interrupted            130   stopped by the user; what was done is kept

Messages are sentences: what was found, what was expected, what to do. They are
shown without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class DFilterError(Exception):
    """Base of all errors that are meant for the user's eyes."""

    exit_code: ClassVar[int] = 2


class InputError(DFilterError):
    """A file or its rows cannot be used."""


class SettingsError(DFilterError):
    """A strategy, a flag or a setting is wrong.

    Args:
        findings: one sentence each; all of them are shown at once.
    """

    def __init__(self, *findings: str) -> None:
        self.findings: tuple[str, ...] = tuple(dict.fromkeys(findings))
        super().__init__("\n".join(self.findings))


class UnknownNameError(SettingsError):
    """A name that nothing answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no {kind} named '{name}'. {suggest(name, sorted(known))}")


class MissingPackageError(DFilterError):
    """An optional package is absent."""


class ModelError(DFilterError):
    """A model's weights cannot be found, or are not the published ones."""


class FolderError(DFilterError):
    """A run folder is finished, foreign, or of other settings."""


class StoreError(DFilterError):
    """The store of signals and fits cannot be read or written."""


class DamagedError(StoreError):
    """A stored file is not what was written."""


class OtherFormatError(StoreError):
    """A stored file is of another version of its format, or none of ours."""


class ServerError(DFilterError):
    """A language-model server refused the work, or never answered."""

    exit_code = 1


class CheckError(DFilterError):
    """A check, a gate or a limit said no."""

    exit_code = 1


class Interrupted(DFilterError):  # noqa: N818 - an interruption is not an error of anybody's
    """Stopped by the user; what was done is kept and the same command continues."""

    exit_code = 130


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the second half of a "no such name" sentence: the nearest name and all known ones."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."
