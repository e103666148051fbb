"""Evaluations as people name them, made checkable: a text on the command line, or a table of a file.

    heldout:2%,per=token                       KIND:SOURCE, then settings, nested ones with dots
    exact:gsm8k.jsonl,match=number,decoding.max_new_tokens=64
    lm-eval:gsm8k,metric="exact_match,strict-match",limit=50
    near.py:Near,target=3                      a class of one's own

    [[eval]]                                   the same in a comparison's TOML
    kind = "exact"
    source = "gsm8k.jsonl"
    match = "number"
    decoding.max_new_tokens = 64

A source may hold commas and ``=``: the longest beginning of the text that names a file or folder is the
source, and where none does, the text up to the first ``,NAME=``. A file that is still to come, under such
a name, takes a table.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dfilter import registry
from dfilter.errors import DFilterError, SettingsError
from dfilter.plaintext import safe_name
from dfilter.settings import fields_of, merged, parse_assignment, plain
from dfilter.types import Asking, Checking

Spec: TypeAlias = str | Mapping[str, Any]  # as a command or a file says it

_NEXT = re.compile(r",(?=\s*[A-Za-z_][\w-]*(?:\.[\w-]+)*\s*=)")  # the comma before NAME=
_SHARE = re.compile(r"\s*[\d.]+\s*%\s*")
_LOCAL = re.compile(r"(.*?\.py:[^:,]*)(.*)", re.DOTALL)
_OPEN = ('"', "'", "[", "{")  # a value that begins so ends where TOML says


@dataclass(frozen=True)
class Named:
    """An evaluation as it was asked for, its settings not yet checked.

    Attributes:
        kind: the evaluator's registered name, or ``file.py:Class``.
        settings: its settings by name, ``source`` among them.
        said: what the user would call it, for errors.
    """

    kind: str
    settings: Mapping[str, Any]
    said: str

    @property
    def source(self) -> str:
        """Where its prompts or rows come from, or an empty text."""
        return str(self.settings.get("source", ""))

    @property
    def share(self) -> str:
        """The share of the comparison's own data that it is on, or an empty text."""
        return self.source if self.kind == "heldout" and self.source.endswith("%") else ""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the comparison: an evaluator's registered name and its settings."""

    name: str
    kind: str
    settings: Mapping[str, Any]


def named(spec: Spec) -> Named:
    """Read a text or a table; nothing is looked up but which files exist.

    Raises:
        SettingsError: a setting is given twice.
    """
    if not isinstance(spec, str):
        kind = str(spec.get("kind", ""))
        return Named(kind, {n: v for n, v in spec.items() if n != "kind"}, f"[[eval]] {kind}".rstrip())
    kind, rest = _kind(spec)
    source, assignments = _source(rest)
    settings: dict[str, Any] = {"source": source} if source else {}
    said = [["source"]] if source else []
    for text in assignments:
        path, value = parse_assignment(text)
        if path in said:
            raise SettingsError(f"--eval {spec} says {'.'.join(path)} twice; leave one of them out.")
        said.append(path)
        settings = merged(settings, path, value)
    return Named(kind, settings, f"--eval {spec}")


def parts(spec: Spec) -> list[Any]:
    """Return all that an evaluation names, for those who look for code in it."""
    found = named(spec)
    return [found.kind, dict(found.settings)]


def _kind(spec: str) -> tuple[str, str]:
    """Split the kind from what follows; a kind may be ``file.py:Class``."""
    local = _LOCAL.fullmatch(spec)
    if local and local[1].partition(":")[0] not in registry.names("evaluators"):
        return local[1], local[2].removeprefix(":")
    at = min((spec.find(mark) for mark in ":," if mark in spec), default=len(spec))
    return spec[:at], spec[at + 1 :] if spec[at : at + 1] == ":" else spec[at:]


def _source(text: str) -> tuple[str, list[str]]:
    """Split the source from the assignments after it."""
    pieces = _NEXT.split(text)
    for count in range(len(pieces), 0, -1):
        source = ",".join(pieces[:count])
        if source and os.path.exists(os.path.expanduser(source)):  # noqa: PTH110, PTH111 - too long for Path
            return source, list(_assignments(pieces[count:]))
    return pieces[0], list(_assignments(pieces[1:]))


def _assignments(pieces: Sequence[str]) -> Iterator[str]:
    """Yield the assignments, joining what a quoted text, a list or a table was cut into."""
    left = list(pieces)
    while left:
        text = left.pop(0)
        value = text.partition("=")[2].strip()
        while value.startswith(_OPEN) and left and not _is_toml(value):
            text = f"{text},{left.pop(0)}"
            value = text.partition("=")[2].strip()
        yield text


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def made_of(asked: Sequence[Named], offered: Mapping[str, Any]) -> list[Evaluation]:
    """Check the settings of evaluations; all findings are raised together.

    Args:
        asked: as they were named.
        offered: settings for every evaluator that has them and was not given its own.

    Raises:
        SettingsError: an unknown kind or setting, or a value that the evaluator refuses.
    """
    made: list[Evaluation] = []
    findings: list[str] = []
    for one in asked:
        settings = dict(one.settings)
        if not one.kind:
            findings.append(f"{one.said} has no kind; known: {', '.join(registry.names('evaluators'))}.")
            continue
        try:
            known = fields_of(registry.load("evaluators", one.kind))
            more = {n: v for n, v in offered.items() if v and n in known and n not in settings}
            settings = plain(registry.create("evaluators", one.kind, settings | more))
        except SettingsError as error:
            findings += [f"{one.said.rstrip(':')}: {finding}" for finding in error.findings]
        if _SHARE.fullmatch(one.source) and one.kind != "heldout" and not Path(one.source).exists():
            findings.append(f"{one.said}: only heldout is on a share of the data; give it a file.")
        name = _file_name(one.kind)
        number = sum(_file_name(e.kind) == name for e in made) + 1
        made.append(Evaluation(name if number == 1 else f"{name}{number}", one.kind, settings))
    if findings:
        raise SettingsError(*findings)
    return made


def check_inputs(evaluations: Sequence[Evaluation]) -> None:
    """Read what the evaluations will read, so that nothing is trained for one that cannot be made.

    Raises:
        DFilterError: what is wrong with the inputs of one; several are told together.
    """
    wrong: list[DFilterError] = []
    for entry in evaluations:
        made = registry.create("evaluators", entry.kind, entry.settings)
        try:
            if isinstance(made, Checking):
                made.check()
            elif isinstance(made, Asking):
                made.asked()
        except DFilterError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise SettingsError(*map(str, wrong))


def _file_name(kind: str) -> str:
    """Return what an evaluation's results/NAME.json is called, but for the number of a second one."""
    return safe_name(kind.rpartition(":")[2].lower())
