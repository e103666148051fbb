"""What something stored *is*: everything that its bytes depend on, and nothing else.

Signals, fits, run folders, trainings and evaluations are named and compared by the identity of what
made them. A component's identity is made of its settings, each as the mark on its field says:

    keep: str                              by its value, which is the rule
    file: Annotated[str, CONTENT]          by what the file or folder that it names says
    model: Annotated[str, WEIGHTS]         by the weights and every file that shapes a model's output
    dtype: Annotated[str, DTYPE]           by the number format that "auto" means here
    template: Annotated[Template, SHOWN]   by its value, and what is set beside it: a date, control tokens
    concurrency: Annotated[int, ANYHOW]    not at all: the result is the same

A component whose identity is more than its settings has a method ``identify()``. What is stored is
named by ``kind`` and ``version``: a registered name, and a number that is raised when the algorithm's
result changes, so that what an older one left is not found any more. No class is named, so none is
orphaned when it is renamed.
"""

from __future__ import annotations

import dataclasses
import glob
import inspect
import math
import os
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from dfilter import chat, control_tokens, registry
from dfilter.digests import json_digest, path_sha256
from dfilter.errors import SettingsError
from dfilter.models import fast_dtype, resolve
from dfilter.own_code import code_sha256, is_own
from dfilter.plaintext import safe_name
from dfilter.types import Json, Signal

DATELESS = ("alpaca", "tulu", "lines", "turns", "published")  # templates of our own, which write no date
SHORT = 16  # hex digits of a digest that stand in an identity


@dataclass(frozen=True, slots=True)
class Mark:
    """How a setting counts, and whether it names a place on this machine."""

    counts: Literal["content", "weights", "dtype", "template", "not"]
    place: bool = False


CONTENT = Mark("content", place=True)
WEIGHTS = Mark("weights", place=True)
DTYPE = Mark("dtype")
SHOWN = Mark("template")
ANYHOW = Mark("not")
PLACE = Mark("not", place=True)


@runtime_checkable
class Identified(Protocol):
    """A component that knows its own identity."""

    def identify(self) -> Mapping[str, Json]:
        """Return everything that its result depends on, as JSON."""
        ...


def identity(component: Any) -> Any:
    """Return everything that a component's result depends on, as JSON.

    What is known by contents is ``{"content": digest, "named": text}``; ``named`` is for the eye and
    does not count, see :func:`bare`.

    Raises:
        ModelError: a model that it names cannot be found.
        InputError: a file that it names cannot be read.
    """
    if isinstance(component, Signal):  # or a fit, which has the same methods
        return _stored_identity(component)
    if isinstance(component, Identified):
        return dict(component.identify())
    if dataclasses.is_dataclass(component) and not isinstance(component, type):
        return settings_identity(component)
    return _plain(component)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): identity(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((identity(item) for item in value), key=repr)
    finite = isinstance(value, float) and math.isfinite(value)  # JSON has no infinity, a setting may
    return value if finite or isinstance(value, bool | int | str | None) else str(value)


def settings_identity(component: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """Return the identity of a dataclass's settings by their marks, without asking ``identify()``.

    Args:
        component: the dataclass.
        but: settings that do not count here.
    """
    found = {}
    for name, mark in marks(type(component)).items():
        if name in but:
            continue
        value = getattr(component, name)
        if mark is None:
            found[name] = identity(value)
        elif mark.counts != "not":
            found[name] = _marked(mark, value, component)
    return {name: value for name, value in found.items() if value is not None}


def _stored_identity(component: Any) -> dict[str, Any]:
    """Return the identity of a signal or fit that another component is made of: its spec and its kind."""
    named: Mapping[str, Any] = {}
    if isinstance(component, Identified):
        named = component.identify()
    elif dataclasses.is_dataclass(component):
        named = settings_identity(component)
    spec = {n: named[n] if bare(named.get(n)) == v else v for n, v in component.spec().items()}
    kind = kind_of(component, "signals")
    return spec | {"kind": kind.name, "version": kind.version}


def marks(kind: type) -> dict[str, Mark | None]:
    """Return the marks of a dataclass's settings by field, none where a field has no mark."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found: dict[str, Mark | None] = {}
    for entry in dataclasses.fields(kind):
        extras = getattr(hints[entry.name], "__metadata__", ())
        if entry.init:
            found[entry.name] = next((extra for extra in extras if isinstance(extra, Mark)), None)
    return found


def _marked(mark: Mark, value: Any, component: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_marked(mark, item, component) for item in value]
    if value is None or value == "":
        return value
    if mark.counts == "weights":
        return {"content": resolve(value).sha[:SHORT], "named": str(value)}
    if mark.counts == "dtype":
        device = getattr(component, "device", "auto")
        return fast_dtype(None if device == "auto" else device) if value == "auto" else value
    if mark.counts == "template":
        return shown(value)
    return content(str(value))


def shown(template: str) -> str:
    """Return a template's name with what the user set beside it: a date to write, control tokens to keep."""
    named = os.environ.get("DFILTER_DATE", "").strip() and template not in DATELESS
    dated = f"{template}, on {chat.template_date().isoformat()}" if named else template
    return f"{dated}, control tokens kept" if control_tokens.kept() else dated


def content(text: str) -> Any:
    """Return what a text names by its contents: a file, a folder, a glob, ``KIND:PATH``, or ``A+B`` of these.

    A text that names nothing here (a hub id, a published prompt set) stands for itself.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 - Path.exists refuses texts that are too long for a name
    if os.path.exists(path):  # noqa: PTH110 - as above
        return {"content": path_sha256(Path(path))[:SHORT], "named": text}
    kind, colon, rest = text.partition(":")
    if colon and rest and os.path.exists(os.path.expanduser(rest)):  # noqa: PTH110, PTH111 - as above
        return content(rest) | {"kind": kind, "named": text}
    matches = glob.glob(path, recursive=True) if glob.has_magic(path) else []  # noqa: PTH207 - as above
    if matches:  # in the order in which they are read
        found = [path_sha256(Path(match)) for match in sorted(matches)]
        return {"content": json_digest(found, 8), "named": text}
    parts = [part for part in text.split("+") if part]
    return [content(part) for part in parts] if len(parts) > 1 else text


def spec_of(component: Any) -> dict[str, Any]:
    """Return a signal's or fit's spec: the identity of its settings, without what is for the eye."""
    found: dict[str, Any] = bare(settings_identity(component))
    return found


def component_identity(group: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of a registered component: its name, its version and what its settings say.

    Raises:
        SettingsError: there is none of that name, or it does not take these settings.
    """
    made = registry.create(group, name, settings)
    kind = kind_of(made, group)
    return {"name": kind.name, "version": kind.version, "settings": identity(made)}


def bare(found: Any) -> Any:
    """Return an identity without the names that stand beside contents."""
    if isinstance(found, Mapping):
        skip = "named" if "content" in found else None
        return {name: bare(value) for name, value in found.items() if name != skip}
    return [bare(value) for value in found] if isinstance(found, list | tuple) else found


def digest(found: Any, size: int = 8) -> str:
    """Return the hex digest of an identity."""
    return json_digest(bare(found), size)


def difference(there: Any, here: Any, name: str = "") -> list[str]:
    """Return in what two identities differ, a clause each: ``steps.kcenter.clusters was 20 and is 30``."""
    if bare(there) == bare(here):
        return []
    if isinstance(there, Mapping) and isinstance(here, Mapping) and not {"content"} & {*there, *here}:
        names = [*there, *(n for n in here if n not in there)]
        pairs = [(there.get(n), here.get(n), f"{name}.{n}".lstrip(".")) for n in names]
        return [clause for one, other, where in pairs for clause in difference(one, other, where)]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        items = enumerate(zip(there, here, strict=True))
        return [c for at, (one, other) in items for c in difference(one, other, f"{name}[{at}]")]
    gone = isinstance(there, Mapping) and "content" in there and there.get("named") == here
    return [f"{name} was {_shown(there)} and is {'not there any more' if gone else _shown(here)}"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "content" in value:
        return f"{value.get('named', 'a file')} with contents {str(value['content'])[:8]}"
    return "not set" if value is None else str(value)


def contents(found: Any, name: str = "") -> dict[str, Any]:
    """Return every ``{"content": ..., "named": ...}`` of an identity by its dotted name."""
    if isinstance(found, Mapping):
        if "content" in found:
            return {name: dict(found)}
        pairs = [(f"{name}.{n}".lstrip("."), value) for n, value in found.items()]
    elif isinstance(found, list | tuple):
        pairs = [(f"{name}[{at}]", value) for at, value in enumerate(found)]
    else:
        return {}
    return {n: value for where, part in pairs for n, value in contents(part, where).items()}


@dataclass(frozen=True, slots=True)
class Kind:
    """Under which name and version something is stored."""

    name: str
    version: Json

    @property
    def label(self) -> str:
        """The name as part of a folder's or stage's name."""
        return self.name.partition("@")[0]

    def place(self, spec: Mapping[str, Any]) -> str:
        """Return a folder's name: the kind, and the hash of kind, version and spec."""
        return f"{safe_name(self.label)}-{digest(self.record(spec))}"

    def record(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands in the folder's spec.json."""
        return {"kind": self.name, "version": self.version, "spec": dict(spec)}


def kind_of(component: Any, group: str) -> Kind:
    """Return the name and the version under which what a component makes is stored.

    A class of a file of the user's own, named on the command line or imported from there, is known by
    the contents of that file and of those that it imports. Of what is registered or installed the name is
    the class's own ``kind`` (not an inherited one: a class computes something of its own), else the one
    that it is registered under, with the release of the package that registered it.

    Args:
        component: a signal, a fit, a filter, a trainer, ...
        group: where it would be registered, for instance "signals".

    Raises:
        SettingsError: it has none of these, so nothing could tell it from another one.
    """
    found = type(component)
    registered = registry.name_of(group, found)
    named = str(vars(found).get("kind") or registered)
    if found.__module__.startswith(registry.LOCAL) or (not registered and is_own(found.__module__)):
        named = ""  # what it calls itself does not tell that its file was edited
    version: Json = getattr(found, "version", None)
    if named:
        return Kind(named, version if version is not None else registry.release_of(group, named) or 1)
    try:
        file = Path(inspect.getfile(found))
        return Kind(f"{found.__name__.lower()}@{code_sha256(file)[:SHORT]}", version or 1)
    except (OSError, TypeError) as error:
        raise SettingsError(
            f"{found.__name__} has no name of its own under which values can be stored. Give the class "
            "`kind: ClassVar[str]`, or write it in a file or package."
        ) from error
