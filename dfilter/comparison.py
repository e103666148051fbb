"""What is compared, and under which protocol: the words of a command or a file, made checkable.

Cells share a table only when data, model, recipe and evaluations are the same; strategies, budgets
and seeds may be added to a comparison, nothing else may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfilter import registry
from dfilter import strategy as strategies
from dfilter.data import load
from dfilter.errors import FolderError, SettingsError
from dfilter.leaderboard.cells import Cell
from dfilter.plaintext import safe_name
from dfilter.run import sample_pool, stem
from dfilter.selector import Budget
from dfilter.settings import build, merged, parse_assignment, plain
from dfilter.store.disk import write_json
from dfilter.strategy import Strategy
from dfilter.textmatch import set_aside
from dfilter.types import Progress

REFERENCES = ("random", "longest", "full")
OWN = "own"
ASIDE = "2%"  # of the data, where no evaluation is named


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        out: the comparison's folder.
        data: a path or hub id; none takes the sample pool.
        strategies: names, TOML files, ``file.py:Class``.
        keep: budgets; "own" keeps a strategy's natural size.
        seeds: trainings of each cell, seeded 0, 1, ...
        model: what is fine-tuned.
        trainer: registered name of the trainer.
        recipe: of the trainer.
        train: further settings of the trainer.
        evals: ``KIND:WHERE`` each; see dfilter.evaluations.
        settings: ``STEP.SETTING=VALUE`` for every strategy that has such a step.
        target: the rows of the task to select for, for the strategies that want one.
        target_by: the column that names the target's subtasks.
        selection_model: the model that selecting strategies look through, where they use one.
        judges: who judges, in the evaluations that ask a judge.
        base_url: the judges' server.
        against: the opponent in pairwise judging.
        margin: the smallest difference that matters, in the metric's unit; fixed before the run.
        references: which of random, longest and full take part.
    """

    out: Path
    data: str | None = None
    strategies: Sequence[str] = ("kcenter",)
    keep: Sequence[str] = (OWN,)
    seeds: int = 3
    model: str = "smollm2"
    trainer: str = "dfilter"
    recipe: str = "quick"
    train: Mapping[str, Any] = field(default_factory=dict)
    evals: Sequence[str] = ()
    settings: Sequence[str] = ()
    target: str | None = None
    target_by: str | None = None
    selection_model: str | None = None
    judges: Sequence[str] = ()
    base_url: str | None = None
    against: str | None = None
    margin: float | None = None
    references: Sequence[str] = REFERENCES

    def __post_init__(self) -> None:
        registry.allow_code(*_code_in(vars(self)))  # from_options has refused what only a file named


def from_options(
    data: str | None, out: Path | None, options: Mapping[str, Any], typed: Collection[str] = ()
) -> Comparison:
    """Build a comparison of the command line's words, or of a TOML file that has them as keys.

    Args:
        data: the data, or the TOML file.
        out: the folder, or none.
        options: the other options by name, defaults included.
        typed: the names among them that stand on the command line; these win over the file.

    Raises:
        SettingsError: all that is wrong with them; the file names code that the command line does not.
        InputError: the file cannot be read.
    """
    given = dict(options)
    registry.allow_code(*_code_in({name: options[name] for name in typed}))
    if data is not None and data.endswith(".toml"):
        table = strategies.read_toml(Path(data))
        data = table.pop("data", None)
        out = out or (Path(table.pop("out")) if "out" in table else None)
        in_file = {name.replace("-", "_"): value for name, value in table.items()}
        in_file = {name: value for name, value in in_file.items() if name not in typed}
        registry.refuse_code(_code_in(in_file))
        given |= in_file
    references = tuple(name for name in REFERENCES if not given.pop(f"no_{name}", False))
    entry = {
        "data": data,
        "out": out or Path("runs") / f"compare-{stem(data) if data else 'sample'}",
        "references": references,
        "strategies": _words(given.pop("strategies")),
        "keep": _words(given.pop("keep")),
        "train": _table(given.pop("train", ())),
        "judges": _words(given.pop("judge", None) or ()),
    }
    made: Comparison = build(Comparison, entry | {k: v for k, v in given.items() if v is not None}, "compare")
    return made


def _code_in(options: Mapping[str, Any]) -> list[str]:
    """Return the files that options name as code, in a command's words or a file's."""
    values = []
    for name, value in options.items():
        if name in {"settings", "train"} and isinstance(value, list | tuple):
            values += [parse_assignment(str(text))[1] for text in value]
        elif name == "evals" and isinstance(value, list | tuple):
            values += [part for text in value for part in _kind(str(text))]
        else:
            values.append(_words(value) if name == "strategies" and isinstance(value, str) else value)
    return sorted(set(registry.code_in(values)))


def _words(value: str | Sequence[str]) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts if str(part).strip()]


def _table(value: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    made: dict[str, Any] = {}
    for text in value:
        path, setting = parse_assignment(text)
        made = merged(made, path, setting)
    return made


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the comparison: an evaluator's registered name and its settings."""

    name: str
    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """A comparison with its data and evaluations in place."""

    plan: Comparison
    data: str
    evaluations: Sequence[Evaluation]
    protocol: Mapping[str, Any]


def prepare(plan: Comparison, progress: Progress) -> Setting:
    """Settle the data, what is set aside, and the evaluations; refuse a folder of another protocol."""
    trainer_of(plan)
    registry.create("signals", "tokens", {"tokenizer": plan.model}).spec()  # the model must be there
    place = plan.data or str(sample_pool(progress))
    given = tuple(plan.evals) or _usual_evaluations(plan, place)
    shares = {spec for spec in given if spec.startswith("heldout:") and spec.endswith("%")}
    if len(shares) > 1:
        raise SettingsError(
            f"Only one share can be set aside, but {' and '.join(sorted(shares))} are asked for."
        )
    heldout = None
    if shares:
        place, heldout = _set_aside(plan, place, next(iter(shares)).partition(":")[2], progress)
    evaluations = parse_evaluations([f"heldout:{heldout}" if s in shares else s for s in given], plan)
    protocol = {
        "data": load(place, progress=progress).source.digest,
        "model": plan.model,
        "recipe": plan.recipe,
        "train": dict(plan.train),
        "evaluations": {e.name: {"kind": e.kind} | _by_content(e.settings) for e in evaluations},
    }
    protocol = json.loads(json.dumps(protocol))  # as it will be read back
    _same_protocol(plan.out / "protocol.json", protocol | {"margin": plan.margin})
    return Setting(plan, place, evaluations, protocol)


def trainer_of(plan: Comparison) -> dict[str, Any]:
    """Return the trainer's settings, made sure of before anything is selected or paid for.

    Raises:
        SettingsError: all that is wrong with them.
    """
    settings = {"model": plan.model, "recipe": plan.recipe, **plan.train}
    known = fields_of(registry.load("trainers", plan.trainer))
    astray = sorted(set(plan.train) - known) if "overrides" in known else []
    try:
        registry.create("trainers", plan.trainer, settings)
    except SettingsError as error:
        hint = [f"A recipe's figure is set with --train overrides.{name}=VALUE." for name in astray]
        raise SettingsError(*error.findings, *hint) from error
    return settings


def parse_evaluations(specs: Sequence[str], plan: Comparison) -> list[Evaluation]:
    """Read ``KIND:SOURCE`` evaluations and check their settings; all findings are raised together.

    Raises:
        SettingsError: an unknown kind, or a source that the evaluator refuses.
    """
    made: list[Evaluation] = []
    findings: list[str] = []
    for spec in specs:
        kind, source = _kind(spec)
        settings: dict[str, Any] = {"source": source} if source else {}
        server = {"base_url": plan.base_url} if plan.base_url else {}
        offered = {"judges": [{"model": name} | server for name in plan.judges], "against": plan.against}
        try:
            known = fields_of(registry.load("evaluators", kind))
            settings |= {name: value for name, value in offered.items() if value and name in known}
            settings = plain(registry.create("evaluators", kind, settings))
        except SettingsError as error:
            findings += [f"--eval {spec}: {finding}" for finding in error.findings]
        name = _file_name(kind)
        number = sum(_file_name(e.kind) == name for e in made) + 1
        made.append(Evaluation(name if number == 1 else f"{name}{number}", kind, settings))
    if findings:
        raise SettingsError(*findings)
    return made


def _file_name(kind: str) -> str:
    """Return what an evaluation's results/NAME.json is called, but for the number of a second one."""
    return safe_name(kind.rpartition(":")[2].lower())


def _kind(spec: str) -> tuple[str, str]:
    """Split KIND:SOURCE; a kind may be ``file.py:Class``."""
    file, local, rest = spec.partition(".py:")
    kind, _, source = (rest if local else spec).partition(":")
    return f"{file}.py:{kind}" if local else kind, source


def settings_for(plan: Comparison, made: Strategy) -> list[str]:
    """Return the assignments that concern a strategy."""
    steps = {step.name: type(f) for step, f in zip(made.steps, made.filters, strict=True)}
    mine = [text for text in plan.settings if text.partition(".")[0] in {*steps, "select"}]
    for name, kind in steps.items():
        if plan.selection_model and "model" in fields_of(kind):
            mine.append(f"{name}.model={json.dumps(plan.selection_model)}")
        if plan.target_by and "target_by" in fields_of(kind):
            mine.append(f"{name}.target_by={json.dumps(plan.target_by)}")
    return mine


def fields_of(kind: type) -> set[str]:
    """Return the names of a component's settings."""
    return set(getattr(kind, "__dataclass_fields__", {}))


def _usual_evaluations(plan: Comparison, place: str) -> tuple[str, ...]:
    """Held-out loss on what is set aside; with the sample pool its own held-out set, exact match too."""
    if plan.data is None:
        clean = Path(place).with_name("heldout.jsonl")
        return (f"heldout:{clean}", f"exact:{clean}")
    return (f"heldout:{ASIDE}",)


def _set_aside(plan: Comparison, place: str, share: str, progress: Progress) -> tuple[str, Path]:
    """Write the pool and the held-out rows as files of their own, once."""
    pool, heldout = plan.out / "pool.jsonl", plan.out / "heldout.jsonl"
    if not pool.exists():
        rows = load(place, progress=progress)
        with progress.stage("setting rows aside"):
            parts = set_aside(rows, float(Budget.parse(share).amount))
        rows.write(heldout, parts.heldout)
        rows.write(pool, parts.pool)
        progress.say(
            f"Set {len(parts.heldout):,} rows aside for held-out loss, and left out {len(parts.repeats):,} "
            f"that repeat their prompts; {len(parts.pool):,} rows remain."
        )
    return str(pool), heldout


def _by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace an evaluation's source by its hash, so that a moved file stays the same evaluation."""
    source = Path(str(settings.get("source", "")))
    if not source.is_file():
        return dict(settings)
    return dict(settings) | {"source": hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest()}


def _same_protocol(file: Path, protocol: Mapping[str, Any]) -> None:
    if not file.exists():
        write_json(file, protocol)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    differs = sorted(n for n in {*there, *protocol} if there.get(n) != protocol.get(n))
    if differs:
        what = "; ".join(f"{n} was {there.get(n)} and is {protocol.get(n)}" for n in differs)
        raise FolderError(
            f"{file.parent} holds a comparison of another protocol ({what}). Strategies, budgets and seeds "
            "may be added to a comparison; for anything else choose another -o."
        )


def only(cells: Sequence[Cell], labels: Sequence[str], budgets: Sequence[str]) -> list[Cell]:
    """Return the cells of some strategies and budgets, with the references of their sizes."""
    wanted = [c for c in cells if not labels or c.strategy in {*labels, *REFERENCES}]
    sizes = {*budgets, *(c.against for c in cells if c.against and c.budget in budgets), "full"}
    return [c for c in wanted if not budgets or c.budget in sizes]


def recorded_margin(folders: Sequence[Path]) -> float | None:
    """Return the margin that the comparisons were started with.

    Raises:
        FolderError: they had different ones.
    """
    files = [file for folder in folders for file in folder.rglob("protocol.json")]
    found = {json.loads(file.read_text(encoding="utf-8")).get("margin") for file in files}
    if len(found) > 1:
        raise FolderError(
            f"These comparisons were started with different margins ({found}); show them apart."
        )
    return next(iter(found), None)
