"""What is compared, and under which protocol: the words of a command or a file, made checkable.

Cells share a table only when data, model, recipe and evaluations are the same, by their contents and not
by their names; strategies, budgets and seeds may be added to a comparison, nothing else may change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dfilter import registry
from dfilter import strategy as strategies
from dfilter.comparison_pool import HELDOUT, SPLIT, SPLIT_PARTS, untrainable, unwritten, written
from dfilter.data import load
from dfilter.errors import FolderError, SettingsError, UnknownNameError
from dfilter.evaluations import Evaluation, Named, Spec, check_inputs, made_of, named, parts
from dfilter.identity import SHORT, component_identity, content, difference, digest, identity
from dfilter.leaderboard.cells import Cell
from dfilter.llm.budget import Budget, Terms
from dfilter.llm.panel import local_mode, panel, words
from dfilter.protocol import PROTOCOL, begin, changes, set_aside
from dfilter.run import sample_pool
from dfilter.run_folder import as_read, stem
from dfilter.selector import TokenCounter, meant
from dfilter.settings import build, fields_of, merged, parse_assignment, seconds
from dfilter.store.seal import read_checked
from dfilter.strategy import Strategy
from dfilter.types import Counting, Progress, Rating

REFERENCES = ("random", "longest", "full")
OWN = "own"
SCRATCH = (".claim", f".{PROTOCOL}", SPLIT_PARTS)  # what a comparison that was killed at once may have left
SPLIT_VERSION = 3  # of how rows are set aside
ASIDE = "2%"  # of the data, where no evaluation is named


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        out: the comparison's folder.
        data: a path or hub id; none takes the sample pool.
        csv: how fields of CSV and TSV files are told apart.
        config: which config of the data, where it has several.
        split: which of its splits.
        on_bad_rows: auto, keep-going or stop; all four as in :func:`dfilter.data.load`.
        strategies: names, TOML files, ``file.py:Class``.
        keep: budgets; "own" keeps a strategy's natural size.
        seeds: trainings of each cell, seeded 0, 1, ...
        model: what is fine-tuned.
        trainer: registered name of the trainer.
        recipe: of the trainer.
        train: further settings of the trainer.
        evals: texts or tables; see :mod:`dfilter.evaluations`.
        settings: ``STEP.SETTING=VALUE`` for every strategy that has such a step.
        target: the rows of the task to select for, for the strategies that want one.
        target_by: the column that names the target's subtasks.
        selection_model: the model that selecting strategies look through, where they use one.
        judges: who judges, in the evaluations that ask a judge.
        selection_judges: who rates rows, in the strategies that ask a judge and name none; the judges
            unless given.
        base_url: the judges' server, or one each with commas.
        judge_names: a name for each judge, by which it is known wherever its server answers.
        explain: "no" asks judges for the verdict alone.
        judge_keys: the environment variable with the judges' key, or one each.
        wait_for_server: seconds for which a judge's server that is down is waited for, in evaluations and
            selections; as the judges' own settings have it unless given.
        against: the opponent in pairwise judging.
        max_usd: what judges may cost in all, evaluations included, in US dollars; restarts count together.
        max_calls: the same in calls.
        max_tokens: the same in tokens of prompts and answers.
        budget: what these limits belong to; the folder unless given.
        prices: of the judges, ``IN/OUT`` in US dollars per million tokens, or one for all.
        margin: the smallest difference that matters, in the metric's unit; fixed before the run.
        references: which of random, longest and full take part.
        force: make anew what the folder holds of other settings, instead of refusing it.
    """

    out: Path
    data: str | None = None
    csv: str = ""
    config: str = ""
    split: str = ""
    on_bad_rows: str = "auto"
    strategies: Sequence[str] = ("kcenter",)
    keep: Sequence[str] = (OWN,)
    seeds: int = 3
    model: str = "smollm2"
    trainer: str = "dfilter"
    recipe: str = "quick"
    train: Mapping[str, Any] = field(default_factory=dict)
    evals: Sequence[Spec] = ()
    settings: Sequence[str] = ()
    target: str | None = None
    target_by: str | None = None
    selection_model: str | None = None
    judges: Sequence[str] = ()
    selection_judges: Sequence[str] = ()
    base_url: str | None = None
    judge_names: Sequence[str] = ()
    explain: Literal["yes", "no"] | None = None
    judge_keys: Sequence[str] = ()
    wait_for_server: float | None = None
    against: str | None = None
    max_usd: float | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    budget: str = ""
    prices: Sequence[str] = ()
    margin: float | None = None
    references: Sequence[str] = REFERENCES
    force: bool = False

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise SettingsError(f"A margin is a positive difference, not {self.margin}.")
        Budget(self.max_usd, max_calls=self.max_calls, max_tokens=self.max_tokens)  # they are amounts
        if not self.strategies:
            raise SettingsError("No strategy is named. Without one there is nothing to compare random with.")
        registry.allow_code(*_code_in(vars(self)))  # from_options has refused what only a file named

    @property
    def terms(self) -> Terms:
        """What judges may cost, and what that belongs to."""
        name = self.budget or str(self.out.absolute())
        return Terms(name, self.max_usd, self.max_calls, self.max_tokens)

    @property
    def reading(self) -> dict[str, Any]:
        """How the data is read, where that was said."""
        names = ("csv", "config", "split", "on_bad_rows")
        said = {name: getattr(self, name) for name in names}
        return {name: value for name, value in said.items() if value not in {"", "auto"}}


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
        if data is not None and not isinstance(data, str):
            raise SettingsError(f"data = {data!r} is no path and no hub id; write it in quotation marks.")
        out = out or (Path(table.pop("out")) if "out" in table else None)
        in_file = _by_field(table)
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
        "selection_judges": _words(given.pop("selection_judge", None) or ()),
        "judge_names": _words(given.pop("judge_name", None) or ()),
        "judge_keys": _words(given.pop("judge_key", None) or ()),
        "prices": _words(given.pop("price", None) or ()),
    }
    if isinstance(given.get("wait_for_server"), str):  # of a file
        given["wait_for_server"] = seconds(given["wait_for_server"])
    made: Comparison = build(Comparison, entry | {k: v for k, v in given.items() if v is not None}, "compare")
    return made


def _code_in(options: Mapping[str, Any]) -> list[str]:
    """Return the files that options name as code, in a command's words or a file's."""
    values = []
    for name, value in options.items():
        if name in {"settings", "train"} and isinstance(value, list | tuple):
            values += [parse_assignment(str(text))[1] for text in value]
        elif name == "evals" and isinstance(value, list | tuple):
            values += [part for spec in value for part in parts(spec)]
        else:
            values.append(_words(value) if name == "strategies" and isinstance(value, str) else value)
    return sorted(set(registry.code_in(values)))


def _by_field(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's keys as the comparison's fields; ``eval`` and ``set`` are what the options are."""
    if {"eval", "evals"} <= set(table):
        raise SettingsError("The file has both 'eval' and 'evals'; put all evaluations in one.")
    found = {name.replace("-", "_"): value for name, value in table.items()}
    return {{"eval": "evals", "set": "settings"}.get(name, name): value for name, value in found.items()}


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
class Setting:
    """A comparison with its data and evaluations in place.

    Attributes:
        plan: what is compared.
        data: where the rows are that strategies select from.
        evaluations: of every cell.
        protocol: what every cell shares.
        splits: by evaluation the share of the data that it is on, or none.
        reading: how ``data`` is read, where it is a file that the comparison wrote.
        shape: how files are read that are written of these rows.
    """

    plan: Comparison
    data: str
    evaluations: Sequence[Evaluation]
    protocol: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any] | None]
    reading: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)


def prepare(plan: Comparison, progress: Progress) -> Setting:
    """Put data, held-out rows and evaluations in place; refuse a folder of another protocol.

    Raises:
        FolderError: the folder holds a comparison of another protocol.
        DFilterError: the data, the model, the trainer or an evaluation cannot be used.
    """
    refuse_foreign(plan)
    _refuse_idle_settings(plan)  # a mistake is said before a model is looked for or a folder cleared
    made_by = _made_by(plan)
    place = plan.data or str(sample_pool(progress))
    rows = load(place, **plan.reading, progress=progress)
    for remark in rows.remarks:
        progress.say(remark)
    given = [named(spec) for spec in plan.evals or _usual_evaluations(plan, place)]
    share = _share(given)
    shape = rows.source.reading
    aside = {"source": str(plan.out / HELDOUT), **shape}
    asked = [replace(one, settings={**one.settings, **aside}) if one.share else one for one in given]
    evaluations = parse_evaluations(asked, plan)
    for made, one in zip(evaluations, given, strict=True):
        if sum(other.kind == one.kind for other in given) > 1:  # the table knows them by these names
            progress.say(f"{made.name} is {one.said}")
    data = {"content": rows.source.digest[:SHORT], "named": place, "rows": as_read(rows)}
    split = {"share": share, "version": SPLIT_VERSION} if share else None
    on_share = {made.name for made, one in zip(evaluations, given, strict=True) if one.share}
    check_inputs([made for made in evaluations if made.name not in on_share])
    splits = {made.name: split if made.name in on_share else None for made in evaluations}
    measured_by = _measured_by(evaluations, splits)
    protocol = json.loads(json.dumps({"data": data, **made_by, **measured_by}))  # as it will be read back
    here = {**protocol, "margin": plan.margin}
    clauses = changes(plan.out, here, force=plan.force)
    left_out = untrainable(registry.create("trainers", plan.trainer, trainer_of(plan)), rows, progress)
    reading: Mapping[str, Any] = {}
    if split is not None or left_out or plan.reading:  # whoever reads on knows nothing of options
        without = [{rows.ids[at]: why for at, why in left_out.items()}] if left_out else []
        of = digest([data, split, *without])
        place = written(plan.out, rows, share, left_out, of, progress, set_aside(plan.out))
        reading = shape
    else:
        unwritten(plan.out)
    begin(plan.out, here, clauses, progress)
    return Setting(plan, place, evaluations, protocol, splits, reading, shape)


def changed(setting: Setting) -> list[str]:
    """Return what has changed since of all that trains and evaluates the cells, a clause each."""
    now = _made_by(setting.plan) | _measured_by(setting.evaluations, setting.splits)
    now = json.loads(json.dumps(now))
    return difference({name: setting.protocol[name] for name in now}, now)


def _made_by(plan: Comparison) -> dict[str, Any]:
    """Return what a cell's model depends on beside its rows."""
    trainer = component_identity("trainers", plan.trainer, trainer_of(plan))
    model = identity(registry.create("signals", "tokens", {"tokenizer": plan.model}))  # it must be there
    if trainer["settings"].get("model") == plan.model:  # a trainer of the user's own may not mark it
        trainer["settings"]["model"] = model["tokenizer"]
    return {"model": model["tokenizer"], "trainer": trainer}


def _measured_by(evaluations: Sequence[Evaluation], splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell's results depend on beside its model."""
    return {"evaluations": {made.name: _evaluation_identity(made, splits[made.name]) for made in evaluations}}


def refuse_foreign(plan: Comparison) -> None:
    """Refuse a folder that is no comparison's, and inputs that lie where a comparison keeps its own files.

    Raises:
        FolderError: with what is there.
    """
    out = plan.out
    if out.exists() and not out.is_dir():
        raise FolderError(f"{out} is a file; choose another -o.")
    there = [p.name for p in out.iterdir() if not p.name.startswith(SCRATCH)] if out.exists() else []
    ours = (out / PROTOCOL).is_file() or read_checked(out / SPLIT) or any(out.glob("cells/*/job.json"))
    if there and not ours:
        raise FolderError(f"{out} exists and is not a comparison's folder; choose another -o.")
    asked = [named(spec).settings for spec in plan.evals]
    sources = [str(settings.get(name) or "") for settings in asked for name in ("source", "against")]
    for text in (text for text in (plan.data, *sources, plan.target, plan.against) if text):
        path = Path(text)
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            raise FolderError(
                f"{text} lies in {out}, where the comparison keeps files of its own. Copy it elsewhere, or "
                "choose another -o."
            )


def _share(given: Sequence[Named]) -> str:
    """Return the share that is to be set aside for evaluations, or nothing."""
    shares = sorted({one.share for one in given} - {""})
    if len(shares) > 1:
        raise SettingsError(f"Only one share can be set aside, but {' and '.join(shares)} are asked for.")
    return next(iter(shares), "")


def _evaluation_identity(made: Evaluation, split: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what an evaluation's result depends on beside the model."""
    found = component_identity("evaluators", made.kind, made.settings)
    settings = dict(found["settings"])
    if split is not None:
        settings["source"] = dict(split)  # of the comparison's own data, which the protocol names as read
        settings = {name: value for name, value in settings.items() if name not in {"format", "mapping"}}
    elif isinstance(settings.get("source"), str):  # an evaluator of the user's own may not mark it
        settings["source"] = content(settings["source"])
    return {"kind": found["name"], "version": found["version"], **settings}


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


def parse_evaluations(specs: Sequence[Spec | Named], plan: Comparison) -> list[Evaluation]:
    """Read evaluations and check their settings; all findings are raised together.

    Raises:
        SettingsError: an unknown kind or setting, or a value that the evaluator refuses.
    """
    asked = [spec if isinstance(spec, Named) else named(spec) for spec in specs]
    return made_of(asked, {"judges": _judges(plan), "against": plan.against, "explain": plan.explain})


def _judges(plan: Comparison) -> list[dict[str, Any]]:
    given = {"name": plan.judge_names, **_shared(plan)[0]}
    return [judge | _patience(plan) for judge in panel(plan.judges, given)]


def _shared(plan: Comparison) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return address, key and price of the judges, and of the selection's: one for all, or one each."""
    given = {"base_url": words(plan.base_url), "key_env": [*plan.judge_keys], "price": [*plan.prices]}
    first, more = len(plan.judges), len(plan.selection_judges)
    if not more or list(plan.selection_judges) == list(plan.judges):
        return given, given
    each = {name for name, values in given.items() if len(values) == first + more}
    return (
        {name: v[:first] if name in each else v for name, v in given.items()},
        {name: v[first:] if name in each else v if len(v) == 1 else [] for name, v in given.items()},
    )


def _patience(plan: Comparison) -> dict[str, Any]:
    return {} if plan.wait_for_server is None else {"wait_for_server": plan.wait_for_server}


def _selection_judge(plan: Comparison, made: Any) -> dict[str, Any]:
    """Return the settings of the judge of a filter that rates rows; a strategy's own judge stays."""
    models = list(plan.selection_judges or plan.judges)
    if not models or (made.judge.model and not plan.selection_judges):
        return _patience(plan)
    same = models == list(plan.judges)
    given = {"name": plan.judge_names if same else [], **_shared(plan)[1]}
    told = {n: ",".join(v) for n, v in given.items() if v}
    mode = {"mode": local_mode(models)} if local_mode(models) else {}
    return {"model": ",".join(models)} | told | mode | _patience(plan)


def settings_for(plan: Comparison, made: Strategy) -> list[str]:
    """Return the assignments that concern a strategy."""
    steps = {step.name: type(f) for step, f in zip(made.steps, made.filters, strict=True)}
    mine = [text for text in plan.settings if text.partition(".")[0] in {*steps, "select"}]
    if not any(text.startswith("select.tokenizer=") for text in mine):  # a token is what is trained on
        mine.append(f"select.tokenizer={json.dumps(plan.model)}")
    if any(meant(text).endswith("tok") for text in (*plan.keep, made.keep or "")):
        counter = counter_of(plan)
        mine.append(f"select.counter.signal={json.dumps(counter.signal)}")
        mine += [f"select.counter.settings.{n}={json.dumps(v)}" for n, v in counter.settings.items()]
    for name, kind in steps.items():
        if plan.selection_model and "model" in fields_of(kind):
            mine.append(f"{name}.model={json.dumps(plan.selection_model)}")
        if plan.target_by and "target_by" in fields_of(kind):
            mine.append(f"{name}.target_by={json.dumps(plan.target_by)}")
    for step, made_of_it in zip(made.steps, made.filters, strict=True):
        if isinstance(made_of_it, Rating):
            told = _selection_judge(plan, made_of_it)
            ours = {f"{step.name}.judge.{setting}": value for setting, value in told.items()}
            typed = {text.partition("=")[0].strip() for text in plan.settings}
            mine += [f"{name}={json.dumps(value)}" for name, value in ours.items() if name not in typed]
    return mine


def counter_of(plan: Comparison) -> TokenCounter:
    """Return what counts the tokens of a budget: those that are trained, where the trainer tells them.

    A tokenizer that the user names counts whole responses, as those of a trainer that tells nothing do.
    """
    words = [text.partition("=")[2] for text in plan.settings if text.startswith("select.tokenizer=")]
    if words:
        return TokenCounter("tokens", {"tokenizer": parse_assignment(f"tokenizer={words[-1]}")[1]})
    return _counter(plan.trainer, json.dumps(trainer_of(plan)), plan.model)


@lru_cache(maxsize=8)  # it is asked for with every strategy, and reads a tokenizer
def _counter(trainer: str, settings: str, model: str) -> TokenCounter:
    made = registry.create("trainers", trainer, json.loads(settings))
    return (
        TokenCounter(*made.counts())
        if isinstance(made, Counting)
        else TokenCounter("tokens", {"tokenizer": model})
    )


def _refuse_idle_settings(plan: Comparison) -> None:
    """A setting that no strategy takes is a mistake, not a wish."""
    asked = [strategies.load(source) for source in plan.strategies if source not in REFERENCES]
    used = {text for made in asked for text in settings_for(plan, made)}
    idle = [text for text in plan.settings if text not in used]
    for source, made in zip((s for s in plan.strategies if s not in REFERENCES), asked, strict=True):
        strategies.load(source, settings_for(plan, made))
    if idle:
        steps = ", ".join(sorted({step.name for made in asked for step in made.steps}))
        raise SettingsError(*[f"--set {text} fits no strategy; steps here: {steps}." for text in idle])


def _usual_evaluations(plan: Comparison, place: str) -> tuple[str, ...]:
    """Held-out loss on what is set aside; with the sample pool its own held-out set, exact match too."""
    if plan.data is None:
        clean = Path(place).with_name("heldout.jsonl")
        return (f"heldout:{clean}", f"exact:{clean}")
    return (f"heldout:{ASIDE}",)


def only(cells: Sequence[Cell], labels: Sequence[str], budgets: Sequence[str]) -> list[Cell]:
    """Return the cells of some strategies and budgets, with the references of their sizes, to be shown.

    Raises:
        SettingsError: no cell is of a strategy that is named.
    """
    known = sorted({cell.strategy for cell in cells})
    if absent := [label for label in labels if label not in known]:
        raise SettingsError(
            *(str(UnknownNameError("strategy of this table", name, known)) for name in absent)
        )
    wanted = [c for c in cells if not labels or c.strategy in {*labels, *REFERENCES}]
    asked = {meant(text) for text in budgets}
    beside = {meant(c.against) for c in cells if c.against and meant(c.budget) in asked}
    return [c for c in wanted if not budgets or meant(c.budget) in {*asked, *beside, "full"}]
