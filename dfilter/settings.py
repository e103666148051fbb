"""A mapping of settings becomes a component; everything that is wrong is said at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import Any

from dfilter.errors import SettingsError, suggest

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Return a time such as 90s, 20m or 2h in seconds; a bare number is seconds.

    Raises:
        SettingsError: it is none, or no time at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise SettingsError(f"{text} is not a time such as 90s, 20m or 2h.")
    return float(found[1]) * _UNITS[found[2]]


def build(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    """Make a component of its class and settings.

    Args:
        kind: a dataclass; fields that are dataclasses themselves take a table.
        settings: names to values.
        where: what the user would call this place, for the errors.

    Raises:
        SettingsError: with one finding for each unknown name, wrong type and refused value.
    """
    findings: list[str] = []
    made = _build(kind, settings, where, findings)
    if findings:
        raise SettingsError(*findings)
    return made


def _build(kind: type, settings: Any, where: str, findings: list[str]) -> Any:
    before = len(findings)
    values = _values(kind, settings, where, findings)
    if len(findings) > before:
        return None
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        findings.append(f"{where}: {error}")
    except SettingsError as error:
        findings.extend(f"{where}: {finding}" for finding in error.findings)
    return None


def _values(kind: type, settings: Any, where: str, findings: list[str]) -> dict[str, Any]:
    """Return the arguments that ``settings`` stand for, as far as nothing is wrong with them."""
    if not isinstance(settings, Mapping):
        findings.append(f"{where} = {settings!r} is not a table of settings.")
        return {}
    if not dataclasses.is_dataclass(kind):
        if settings:
            findings.append(f"{where} takes no settings, but got {', '.join(settings)}.")
        return {}
    known = {f.name for f in dataclasses.fields(kind) if f.init}
    unknown = sorted(set(settings) - known)
    findings += [f"{where} has no setting '{name}'. {suggest(name, sorted(known))}" for name in unknown]
    findings += [f"{where} needs a value for '{name}'." for name in _needed(kind) if name not in settings]
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        findings.append(f"The types of {where}'s settings cannot be read: {error}; import it at run time.")
        return {}
    return {
        name: _value(hints[name], value, f"{where}.{name}", findings)
        for name, value in settings.items()
        if name in known
    }


def _needed(kind: type) -> list[str]:
    """Return the names of the settings that have no default."""
    none = dataclasses.MISSING
    fields = (f for f in dataclasses.fields(kind) if f.init)
    return [f.name for f in fields if f.default is none and f.default_factory is none]


def _value(hint: Any, value: Any, where: str, findings: list[str]) -> Any:
    """Check one value against its type; tables become nested components."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    nested = _nested(hint)
    if nested is not None and isinstance(value, Mapping):
        return _build(nested, value, where, findings)
    if nested is not None and isinstance(value, nested):
        return value
    several = _several(hint)
    if several is not None and isinstance(value, list | tuple):
        made = [_value(several, item, f"{where}[{i}]", findings) for i, item in enumerate(value)]
        return tuple(made) if typing.get_origin(hint) is tuple else made
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    try:
        return TypeAdapter(hint, config=_config(hint, ConfigDict(strict=False))).validate_python(value)
    except ValidationError as error:
        expected = "; ".join(sorted({item["msg"] for item in error.errors()}))
        findings.append(f"{where} = {value!r} does not fit: {expected}.")
        return None


def _config(hint: Any, config: Any) -> Any:
    """Return the validation settings, which pydantic refuses for types that bring their own."""
    return None if dataclasses.is_dataclass(hint) else config


def _nested(hint: Any) -> type | None:
    """Return the dataclass that a field holds (directly, or as the other half of ``| None``)."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _several(hint: Any) -> type | None:
    """Return the dataclass that a field holds any number of."""
    first, *rest = typing.get_args(hint) or (None,)
    listed = typing.get_origin(hint) in {list, Sequence} or rest == [...]
    return first if listed and isinstance(first, type) and dataclasses.is_dataclass(first) else None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union


class Written(float):
    """A number that knows how it was written, for a setting that is a text."""

    text: str = ""

    def __str__(self) -> str:
        return self.text


def _written(text: str) -> Written:
    number = Written(text)
    number.text = text
    return number


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Read ``--set a.b=value``: a dotted name and a TOML value; what is not TOML is a string.

    Raises:
        SettingsError: there is no ``=``, or nothing before it.
    """
    name, equals, value = text.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not equals or not all(path):
        raise SettingsError(f"--set {text} is not of the form NAME.SETTING=VALUE.")
    try:
        found = tomllib.loads(f"value = {value}", parse_float=_written)["value"]
        return path, value.strip() if isinstance(found, date | time) else found  # no setting is a date
    except tomllib.TOMLDecodeError:
        return path, value


def merged(base: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return ``base`` with one nested value replaced."""
    head, *rest = path
    inner = base.get(head)
    return {**base, head: merged(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


def plain(component: Any) -> Any:
    """Return a component's settings as JSON-like values, nested ones as tables, None left out."""
    if dataclasses.is_dataclass(component) and not isinstance(component, type):
        pairs = ((f.name, plain(getattr(component, f.name))) for f in dataclasses.fields(component) if f.init)
        return {name: value for name, value in pairs if value is not None}
    if isinstance(component, Mapping):
        return {str(name): plain(value) for name, value in component.items()}
    if isinstance(component, list | tuple | set | frozenset):
        return [plain(value) for value in component]
    if component is None or isinstance(component, bool | int | float | str):
        return component
    return str(component)


def fields_of(kind: type) -> set[str]:
    """Return the names of a component's settings."""
    return set(getattr(kind, "__dataclass_fields__", {}))
