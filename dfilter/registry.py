"""Names to components: built-ins, installed plugins, and classes in a local file.

A plugin is a package with an entry point in one of the groups below. Nothing is decorated and
nothing is imported before it is asked for; a plugin that cannot be imported is named in a warning
and harms nothing else.

A local file is imported only when the user has named it: on the command line, or as an argument of a
Python call. Strategies, comparisons and recorded runs are data that may come from anybody; what they
name is refused unless :func:`allow_code` was told of the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from dfilter.digests import json_digest
from dfilter.errors import SettingsError, UnknownNameError
from dfilter.own_code import Source, loading
from dfilter.settings import build

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "filters": {
        "blend": "dfilter.filters.blend:Blend",
        "duplicates": "dfilter.filters.duplicates:Duplicates",
        "full": "dfilter.filters.full:Full",
        "given": "dfilter.filters.given:Given",
        "ifd": "dfilter.filters.ifd:IFD",
        "judge": "dfilter.filters.judge:Judge",
        "kcenter": "dfilter.filters.kcenter:KCenter",
        "less": "dfilter.filters.less:LESS",
        "lima": "dfilter.filters.lima:LIMA",
        "longest": "dfilter.filters.length:Longest",
        "random": "dfilter.filters.random:Random",
        "rds": "dfilter.filters.rds:RDS",
        "rds_plus": "dfilter.filters.rds:RDSPlus",
    },
    "signals": {
        "embedding": "dfilter.embed.sentences:Embedding",
        "hidden_state": "dfilter.embed.hidden:HiddenState",
        "response_loss": "dfilter.embed.losses:ResponseLoss",
        "tokens": "dfilter.filters.length:Tokens",
        "trained_tokens": "dfilter.train.screen:TrainedTokens",
    },
    "trainers": {"dfilter": "dfilter.train.trainer:FineTune"},
    "evaluators": {
        "bbh": "dfilter.eval.bbh:BBH",
        "exact": "dfilter.eval.exact:Exact",
        "grade": "dfilter.eval.grade:Grade",
        "heldout": "dfilter.eval.heldout:Heldout",
        "lm-eval": "dfilter.eval.lm_eval:LMEval",
        "mmlu": "dfilter.eval.mmlu:MMLU",
        "pairwise": "dfilter.eval.pairwise:Pairwise",
    },
    "transforms": {"lima_cleaning": "dfilter.filters.cleaning:LIMACleaning"},
}
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOCAL = "dfilter_local_"  # how the names of modules begin that are loaded from a path
_allowed: set[Path] = set()


def allow_code(*files: str | Path) -> None:
    """Let ``file.py:Class``, or a task file that may hold code, be loaded from these files, in this process.

    For what the user names himself: the words of a command, the arguments of a call. Never for what
    was read from a file.
    """
    _allowed.update(Path(file).resolve() for file in files)


def allowed_code() -> list[Path]:
    """Return the files that code may be loaded from, sorted."""
    return sorted(_allowed)


def code_in(value: Any) -> Iterator[str]:
    """Yield the file of each ``file.py:Class``, and each YAML file, in a text, table or list, however deep.

    The YAML of lm-evaluation-harness names Python functions, and the harness runs them.
    """
    if isinstance(value, str):
        file, named, _ = value.partition(".py:")
        if named:
            yield f"{file}.py"
        elif value.endswith((".yaml", ".yml")):
            yield value
    elif isinstance(value, Mapping):
        yield from code_in([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from code_in(item)


def refuse_code(files: Iterable[str]) -> None:
    """Refuse what a file names as code, unless the user allowed it.

    Raises:
        SettingsError: names each file and the option that would allow it.
    """
    findings = [
        f"{file} is code that a strategy file, a comparison or a recorded run asks for; only the command "
        f"line may. If you trust it, add --allow-code {shlex.quote(file)} (in Python, call "
        "dfilter.registry.allow_code)."
        for file in files
        if Path(file).resolve() not in _allowed
    ]
    if findings:
        raise SettingsError(*findings)


def names(kind: str) -> list[str]:
    """Return all known names of a kind, sorted."""
    return sorted({*BUILT_IN[kind], *_plugins(kind)})


def load(kind: str, name: str) -> type:
    """Return the class behind a name, or behind ``file.py:Class``.

    Raises:
        UnknownNameError: nothing answers to the name.
        SettingsError: what answers cannot be imported, or is a local file that the user did not name.
    """
    if ".py:" in name:
        return _from_file(name)
    if name in BUILT_IN[kind]:
        module, _, attribute = BUILT_IN[kind][name].partition(":")
        return _class(getattr(importlib.import_module(module), attribute), name)
    plugins = _plugins(kind)
    if name not in plugins:
        raise UnknownNameError(kind.removesuffix("s"), name, names(kind))
    try:
        return _class(plugins[name].load(), name)
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"Plugin '{name}' ({plugins[name].value}) cannot be imported: {error}."
        ) from error


def create(kind: str, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return a component made of its name and settings; all that is wrong is said at once."""
    return build(load(kind, name), settings or {}, name)


def loadable(kind: str) -> dict[str, type]:
    """Return every class of a kind that can be imported; a broken plugin is named in a warning."""
    found = {}
    for name in names(kind):
        try:
            found[name] = load(kind, name)
        except SettingsError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def name_of(kind: str, found: type) -> str:
    """Return the name that a class is registered under, or an empty text."""
    place = f"{found.__module__}:{found.__qualname__}"
    built_in = (name for name, value in BUILT_IN.get(kind, {}).items() if value == place)
    return next(built_in, None) or next((n for n, p in _plugins(kind).items() if p.value == place), "")


def release_of(kind: str, name: str) -> str:
    """Return the version of the package that brings a plugin; an empty text for what is built in."""
    point = None if name in BUILT_IN.get(kind, {}) else _plugins(kind).get(name)
    return point.dist.version if point is not None and point.dist is not None else ""


def _plugins(kind: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"dfilter.{kind}"), key=lambda p: (p.name, p.value)):
        if point.name in BUILT_IN.get(kind, {}) or point.name in found or not NAME.fullmatch(point.name):
            why = (
                "is taken"
                if NAME.fullmatch(point.name)
                else "is not made of letters, digits, '.', '_' and '-'"
            )
            warnings.warn(f"Plugin {point.value} is left out: its name '{point.name}' {why}.", stacklevel=3)
            continue
        found[point.name] = point
    return found


def _from_file(place: str) -> type:
    file, _, attribute = place.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise SettingsError(f"There is no file {file} (asked for as {place}).")
    refuse_code([file])
    name = f"{LOCAL}{path.stem}_{json_digest(str(path.absolute()))}"  # two files may have one name
    loader = Source(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        with loading(path):
            loader.exec_module(module)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error
    classes = [
        n for n, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__
    ]
    if attribute not in classes:
        raise UnknownNameError(f"class in {file}", attribute, classes)
    return _class(getattr(module, attribute), place)


def _class(found: Any, name: str) -> type:
    if not isinstance(found, type):
        raise SettingsError(f"'{name}' names {found!r}, which is not a class.")
    return found
