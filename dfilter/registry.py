"""Names to components: built-ins, installed plugins, and classes in a local file.

A plugin is a package with an entry point in one of the groups below. Nothing is decorated and
nothing is imported before it is asked for; a plugin that cannot be imported is named in a warning
and harms nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from dfilter.digests import json_digest
from dfilter.errors import SettingsError, UnknownNameError
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
    },
    "trainers": {"dfilter": "dfilter.train.trainer:FineTune"},
    "evaluators": {
        "exact": "dfilter.eval.exact:Exact",
        "grade": "dfilter.eval.grade:Grade",
        "heldout": "dfilter.eval.heldout:Heldout",
        "lm-eval": "dfilter.eval.lm_eval:LMEval",
        "pairwise": "dfilter.eval.pairwise:Pairwise",
    },
    "transforms": {"lima_cleaning": "dfilter.filters.cleaning:LIMACleaning"},
}
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def names(kind: str) -> list[str]:
    """Return all known names of a kind, sorted."""
    return sorted({*BUILT_IN[kind], *_plugins(kind)})


def load(kind: str, name: str) -> type:
    """Return the class behind a name, or behind ``file.py:Class``.

    Raises:
        UnknownNameError: nothing answers to the name.
        SettingsError: what answers cannot be imported.
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
    name = f"dfilter_local_{path.stem}_{json_digest(str(path.absolute()))}"  # two files may have one name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
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
