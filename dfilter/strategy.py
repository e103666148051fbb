"""A strategy is a table: which filters, in which order, and how their scores become a selection.

    paper = "arXiv:2305.09246"
    summary = "spread the selection over the embedding space"
    keep = "5%"                    # the default budget; absent when the strategy has a size of its own

    [[steps]]
    filter = "kcenter"
    at_least = 4.5                 # a gate: rows below it leave
    keep = "30%"                   # a gate: the best 30% of the rows entering the step stay
    at_least_without_keep = 0.0    # a gate that stands only where no budget is given
    [steps.settings]
    clusters = 20

    [select]
    quota = "task"                 # a column, or "group" for the filter's own labels
    tau = 2.0

Strategies name registered filters, never import paths; ``file.py:Class`` is loaded when the command line
(or the caller) names the file. Every mistake of a table is reported at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from dfilter import registry
from dfilter.errors import DFilterError, InputError, SettingsError, UnknownNameError, suggest
from dfilter.own_code import code_sha256
from dfilter.selector import Budget, Choice
from dfilter.settings import build, merged, parse_assignment, plain
from dfilter.store.disk import read_text
from dfilter.types import Filter

TOP = ("name", "paper", "summary", "keep", "steps", "select", "run")
GATES = ("at_least", "at_least_without_keep", "keep")


@dataclass(frozen=True)
class Step:
    """One filter of a strategy and the gate behind it."""

    filter: str
    name: str = ""
    at_least: float | None = None
    at_least_without_keep: float | None = None
    keep: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.filter.rpartition(":")[2])
        if self.keep is not None and Budget.parse(self.keep).unit == "tokens":
            raise SettingsError(f"keep = '{self.keep}': a step keeps rows or a share of them, not tokens.")


@dataclass(frozen=True)
class Strategy:
    """A resolved strategy.

    Attributes:
        filters: one built filter a step, in the order of ``steps``.
        recorded: what a run wrote beside it (data path, hash, seed, ...), when it comes from a run folder.
    """

    name: str
    steps: tuple[Step, ...]
    filters: tuple[Filter, ...]
    paper: str = ""
    summary: str = ""
    keep: str | None = None
    select: Choice = field(default_factory=Choice)
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deterministic(self) -> bool:
        """Whether every seed gives the same selection, but for ties."""
        return all(getattr(f, "deterministic", False) for f in self.filters) and not self.select.sample

    def table(self) -> dict[str, Any]:
        """Return the strategy as a TOML-ready table with every setting spelt out."""
        steps = [
            {**plain(replace(step, settings={})), "settings": plain(made)}
            for step, made in zip(self.steps, self.filters, strict=True)
        ]
        table = {"name": self.name, "paper": self.paper, "summary": self.summary, "keep": self.keep}
        return {k: v for k, v in table.items() if v} | {"steps": steps, "select": plain(self.select)}


def builtin_names() -> list[str]:
    """Return the names of the strategies that come with dfilter."""
    folder = resources.files("dfilter.strategies")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def builtin_tables() -> list[dict[str, Any]]:
    """Return the tables of the strategies that come with dfilter, as they are written."""
    return [_table(name) for name in builtin_names()]


def load(name: str, assignments: Iterable[str] = ()) -> Strategy:
    """Return a strategy by name, TOML file, or ``file.py:Class`` (a filter of one's own).

    Args:
        name: what ``--strategy`` was given.
        assignments: ``STEP.SETTING=VALUE`` as given to ``--set``; ``filter.`` addresses the only step.

    Raises:
        SettingsError: all that is wrong with the table and the assignments.
        InputError: the file cannot be read, or code is not what the recorded run used.
    """
    registry.allow_code(*registry.code_in(name))
    table = _table(name)
    _same_code(table)
    findings: list[str] = []
    for text in assignments:
        try:
            table = _assigned(table, text)
        except SettingsError as error:
            findings.extend(error.findings)
    try:
        made = from_table(table, default_name=_plain_name(name))
    except SettingsError as error:
        findings.extend(error.findings)
    if findings:
        raise SettingsError(*findings)
    return made


def addressed(made: Strategy, wishes: Mapping[str, Any]) -> list[str]:
    """Turn wishes such as ``{"judge.model": "M"}`` into assignments to the steps that know the setting.

    Raises:
        SettingsError: a wish that no step of the strategy can take.
    """
    found, findings = [], []
    for name, value in wishes.items():
        head = name.partition(".")[0]
        takers = [
            step.name
            for step, built in zip(made.steps, made.filters, strict=True)
            if head in getattr(built, "__dataclass_fields__", {})
        ]
        found += [f"{taker}.{name}={json.dumps(value)}" for taker in takers]
        if not takers:
            findings.append(
                f"No step of strategy '{made.name}' has a setting '{head}', which --{_flag(name)} sets."
            )
    if findings:
        raise SettingsError(*findings)
    return found


FLAGS = {
    "judge.model": "judge",
    "judge.base_url": "base-url",
    "judge.name": "judge-name",
    "judge.template": "template",
    "judge.wait_for_server": "wait-for-server",
    "judge.explain": "explain",
    "judge.key_env": "judge-key",
    "judge.mode": "judge",
    "judge.price": "price",
    "max_total_tokens": "max-tokens",
}


def _flag(name: str) -> str:
    return FLAGS.get(name, name.replace("_", "-"))


def from_table(table: Mapping[str, Any], default_name: str = "strategy") -> Strategy:
    """Build a strategy of a parsed table; all findings are raised together."""
    findings = [f"The strategy has no setting '{n}'. {suggest(n, TOP)}" for n in table if n not in TOP]
    raw = table.get("steps", [])
    if not isinstance(raw, list) or not raw or not all(isinstance(step, Mapping) for step in raw):
        findings.append("A strategy needs at least one [[steps]] table that names a filter.")
        raw = []
    steps, filters = [], []
    for number, entry in enumerate(raw, 1):
        step, made = _step(entry, number, findings, recorded=bool(table.get("run")))
        steps.append(step)
        filters.append(made)
    names = [step.name for step in steps if step]
    twice = sorted({name for name in names if names.count(name) > 1})
    findings += [f"Two steps are called '{name}'; give one of them another `name`." for name in twice]
    keep = table.get("keep")
    select = _collected(findings, lambda: build(Choice, table.get("select", {}), "select"))
    recorded = table.get("run", {})
    if not isinstance(recorded, Mapping):
        findings.append(f"run = {recorded!r} is not a table.")
    if keep is not None:
        _collected(findings, lambda: Budget.parse(str(keep)))
    if findings:
        raise SettingsError(*findings)
    return Strategy(
        name=str(table.get("name", default_name)),
        steps=tuple(step for step in steps if step),
        filters=tuple(filters),
        paper=str(table.get("paper", "")),
        summary=str(table.get("summary", "")),
        keep=None if keep is None else str(keep),
        select=select,
        recorded=recorded,
    )


def _step(
    entry: Mapping[str, Any], number: int, findings: list[str], *, recorded: bool
) -> tuple[Step | None, Any]:
    where = f"step {number}"
    if "filter" not in entry:
        findings.append(f"{where} names no filter. Known: {', '.join(registry.names('filters'))}.")
        return None, None
    entry = _collected(findings, lambda: _one_gate(entry, recorded=recorded)) or entry
    settings = entry.get("settings", {})
    made = _collected(findings, lambda: registry.create("filters", str(entry["filter"]), settings))
    gate = {name: value for name, value in entry.items() if name != "settings"}
    if type(gate.get("keep")) in {int, float}:
        gate["keep"] = str(gate["keep"])
    step = _collected(findings, lambda: build(Step, gate, f"{where} ({entry['filter']})"))
    if made is not None and not isinstance(made, Filter):
        findings.append(f"{where}: {entry['filter']} is not a filter; it has no method score(pool).")
    return step, made


def _one_gate(entry: Mapping[str, Any], *, recorded: bool) -> Mapping[str, Any]:
    """Return a step whose gate and the setting that is another word for it say the same.

    A run's own strategy spells every setting out, so that there a setting alone is no wish for a gate.

    Raises:
        SettingsError: they contradict each other.
    """
    word, settings = _gate_of(entry), entry.get("settings", {})
    if not word or not isinstance(settings, Mapping):
        return entry
    given = settings.get(word)
    gates = {name: entry[name] for name in ("at_least", "at_least_without_keep") if name in entry}
    if given is None and gates:
        return {**entry, "settings": {**settings, word: next(iter(gates.values()))}}
    if given is not None and not gates and not recorded:
        return {**entry, "at_least": given}
    if given is not None and gates and given not in gates.values():
        told = " and ".join(f"{name} = {value}" for name, value in gates.items())
        raise SettingsError(f"{word} = {given} and {told} are two words for one gate; leave one of them out.")
    return entry


def _gate_of(entry: Mapping[str, Any]) -> str:
    """Return the setting of a step's filter that is another word for its gate, or nothing."""
    try:
        return str(getattr(registry.load("filters", str(entry.get("filter", ""))), "gate", ""))
    except DFilterError:  # whoever makes the filter says it
        return ""


def _collected(findings: list[str], make: Any) -> Any:
    try:
        return make()
    except SettingsError as error:
        findings.extend(error.findings)
        return None


def _table(name: str) -> dict[str, Any]:
    if ".py:" in name:
        return {"steps": [{"filter": name}]}
    if name in builtin_names():  # before files: a folder may hold a file called random
        return {"name": name} | tomllib.loads(
            resources.files("dfilter.strategies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
        )
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return read_toml(path)
    if name in registry.names("filters"):
        return {"name": name, "steps": [{"filter": name}]}
    known = {*builtin_names(), *registry.names("filters")}
    raise UnknownNameError("strategy", name, known)


def _same_code(table: Mapping[str, Any]) -> None:
    """Refuse code other than the recorded run's before any of it is run."""
    recorded = table["run"].get("code") if isinstance(table.get("run"), Mapping) else None
    for file, digest in recorded.items() if isinstance(recorded, Mapping) else ():
        now = code_hash(file) if Path(file).is_file() else digest
        if now != digest:
            raise InputError(
                f"The code of the recorded run has hash {digest}, but {file} has hash {now} and was not "
                "loaded. Give the same one, or remove the [run] table from the strategy file for a new run."
            )


def code_hash(file: str) -> str:
    """Return 16 hex digits that name a file of code, and what it imports of the user's own."""
    return code_sha256(Path(file))[:16]


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's table, or say what is wrong with the file."""
    try:
        return tomllib.loads(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}.") from error


def _assigned(table: dict[str, Any], text: str) -> dict[str, Any]:
    """Apply one ``--set``: ``filter.x`` for the only step, ``NAME.x`` for a step, ``select.x``."""
    path, value = parse_assignment(text)
    registry.allow_code(*registry.code_in(value))
    head, *rest = path
    if head == "select" and rest:
        return merged(table, path, value)
    steps = table.get("steps", [])
    called = [str(s.get("name") or str(s.get("filter", "")).rpartition(":")[2]) for s in steps]
    if head == "filter" and len(steps) == 1:
        number = 0
    elif head in called:
        number = called.index(head)
    else:
        raise SettingsError(
            f"--set {text}: there is no step '{head}'. {suggest(head, [*called, 'filter', 'select'])}"
        )
    if not rest:
        raise SettingsError(f"--set {text} names no setting; write {head}.SETTING=VALUE.")
    inner = rest if rest[0] in GATES and len(rest) == 1 else ["settings", *rest]
    word = _gate_of(steps[number])
    if word and rest in ([word], ["at_least"]):  # what is said now stands for all that was said before
        settings = {n: v for n, v in steps[number].get("settings", {}).items() if n != word}
        there = {n: v for n, v in steps[number].items() if n != "at_least_without_keep"}
        steps = [there | {"settings": settings} if i == number else s for i, s in enumerate(steps)]
        inner = ["at_least"]
    return {**table, "steps": [merged(s, inner, value) if i == number else s for i, s in enumerate(steps)]}


def _plain_name(name: str) -> str:
    if ".py:" in name:
        return name.rpartition(":")[2].lower()
    return Path(name).stem if name.endswith(".toml") else name
