"""Strategies by budgets by seeds: select, fine-tune, evaluate, and one table.

    COMPARISON/
      comparison.toml     what is compared, with every setting that matters
      pool.jsonl          the data without what was set aside (only when something was)
      heldout.jsonl       what was set aside
      selections/…        run folders, one a strategy, budget and selection seed
      cells/…             one a strategy, budget and seed: job.json, log.txt, model/, results/, cell.json
      leaderboard.json    and .md, .csv: the table of the last run

Everything that is finished is left alone, so a killed comparison continues and a strategy added
later costs only itself. Each training runs in a process of its own; one that fails is reported and
the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter import registry
from dfilter import strategy as strategies
from dfilter.cells import CELL, Cell, chance_overlap, read_cell, write_cell
from dfilter.data import load
from dfilter.errors import FolderError, SettingsError
from dfilter.pool import Pool
from dfilter.progress import Silent
from dfilter.run import Request, run, sample_pool, stem
from dfilter.selector import Budget
from dfilter.settings import build, merged, parse_assignment, plain
from dfilter.store.disk import claim, disk_errors, write_json
from dfilter.strategy import Strategy
from dfilter.summary import read_manifest
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
        SettingsError: all that is wrong with them.
        InputError: the file cannot be read.
    """
    given = dict(options)
    if data is not None and data.endswith(".toml"):
        table = strategies.read_toml(Path(data))
        data = table.pop("data", None)
        out = out or (Path(table.pop("out")) if "out" in table else None)
        in_file = {name.replace("-", "_"): value for name, value in table.items()}
        given |= {name: value for name, value in in_file.items() if name not in typed}
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
class Place:
    """One cell: a strategy at a budget with a seed.

    Attributes:
        label: the strategy's name in the table.
        source: what ``--strategies`` said.
        strategy: the strategy, resolved.
        budget: as asked for: "1k", "5%", "own"; a number of rows where a reference is cut to size.
        seed: of the training.
        against: the budget of the references of the same size, when it is not ``budget``.
    """

    label: str
    source: str
    strategy: Strategy
    budget: str
    seed: int
    against: str = ""

    @property
    def name(self) -> str:
        """The cell's folder name."""
        return f"{self.label}-{self.budget.replace('%', 'pct')}-seed{self.seed}"

    @property
    def keep(self) -> str | None:
        """The budget to select with; none leaves it to the strategy."""
        return None if self.budget in {OWN, "full"} else self.budget

    @property
    def selection_seed(self) -> int:
        """Deterministic strategies share one selection between the seeds."""
        return 0 if self.strategy.deterministic else self.seed


@dataclass(frozen=True)
class Setting:
    """A comparison with its data and evaluations in place."""

    plan: Comparison
    data: str
    evaluations: Sequence[Evaluation]
    protocol: Mapping[str, Any]

    def selection(self, place: Place) -> Path:
        """Return the run folder that a cell's rows come from."""
        return self.plan.out / "selections" / replace(place, seed=place.selection_seed).name

    def cell(self, place: Place) -> Path:
        """Return the folder of a cell's model and results."""
        return self.plan.out / "cells" / place.name


def compare(plan: Comparison, progress: Progress | None = None) -> list[Cell]:
    """Select, train and evaluate every cell that is not finished, and return all cells of the plan.

    Raises:
        FolderError: the folder holds a comparison of another protocol, or another process works on it.
        DFilterError: the data, a strategy or an evaluation cannot be used.
    """
    progress = progress or Silent()
    with disk_errors(plan.out), claim(plan.out / ".claim", wait=False) as mine:
        if not mine:
            raise FolderError(f"Another process is working on {plan.out}; wait for it.")
        setting = prepare(plan, progress)
        places = select_all(setting, progress)
        figures = _Figures(setting, places, progress)
        with progress.stage("training and evaluation", total=len(places), unit="cells") as bar:
            for place in places:
                _finish(setting, place, figures)
                bar.advance(1, place.name)
    return [read_cell(setting.cell(place)) for place in places]


def prepare(plan: Comparison, progress: Progress) -> Setting:
    """Settle the data, what is set aside, and the evaluations; refuse a folder of another protocol."""
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
            known = _fields(registry.load("evaluators", kind))
            settings |= {name: value for name, value in offered.items() if value and name in known}
            settings = plain(registry.create("evaluators", kind, settings))
        except SettingsError as error:
            findings += [f"--eval {spec}: {finding}" for finding in error.findings]
        name = kind.rpartition(":")[2].lower()
        number = sum(e.kind == kind for e in made) + 1
        made.append(Evaluation(name if number == 1 else f"{name}{number}", kind, settings))
    if findings:
        raise SettingsError(*findings)
    return made


def _kind(spec: str) -> tuple[str, str]:
    """Split KIND:SOURCE; a kind may be ``file.py:Class``."""
    file, local, rest = spec.partition(".py:")
    kind, _, source = (rest if local else spec).partition(":")
    return f"{file}.py:{kind}" if local else kind, source


def select_all(setting: Setting, progress: Progress) -> list[Place]:
    """Make every run folder and return every cell, references of matching size included."""
    plan = setting.plan
    asked = [_named(setting, source) for source in plan.strategies if source not in REFERENCES]
    twice = {label for label, *_ in asked if [a[0] for a in asked].count(label) > 1}
    if twice:
        raise SettingsError(f"Two strategies are called {', '.join(sorted(twice))}; rename one of the files.")
    _refuse_idle_settings(setting, asked)
    places, sizes = [], list(dict.fromkeys(k for k in plan.keep if k != OWN))
    for label, source, made in asked:
        for budget in plan.keep:
            cells = [Place(label, source, made, budget, seed) for seed in range(plan.seeds)]
            kept = [_select(setting, cell, progress)["counts"] for cell in cells]
            if budget == OWN or any(k["short"] for k in kept):
                size = str(int(median(k["kept"] for k in kept)))
                sizes += [size] * (size not in sizes)
                cells = [replace(cell, against=size) for cell in cells]
            places += cells
    for name in (r for r in ("random", "longest") if r in plan.references):
        label, source, made = _named(setting, name)
        places += [Place(label, source, made, size, seed) for size in sizes for seed in range(plan.seeds)]
    if "full" in plan.references:
        label, source, made = _named(setting, "full")
        places += [Place(label, source, made, "full", seed) for seed in range(plan.seeds)]
    for place in places:
        _select(setting, place, progress)
    # Opponents of pairwise judging must be trained before those who are judged against them.
    return sorted(places, key=lambda place: place.label not in REFERENCES)


def _select(setting: Setting, place: Place, progress: Progress) -> dict[str, Any]:
    """Make the run folder of a cell, unless it is there, and return its manifest."""
    folder = setting.selection(place)
    if not (folder / "done").exists():
        request = Request(
            data=setting.data,
            strategy=place.source,
            keep=place.keep,
            seed=place.selection_seed,
            settings=settings_for(setting.plan, place.strategy),
            target=setting.plan.target,
            out=folder,
        )
        run(request, progress)
    return read_manifest(folder)


def _named(setting: Setting, source: str) -> tuple[str, str, Strategy]:
    made = strategies.load(source)
    made = strategies.load(source, settings_for(setting.plan, made))
    return made.name, source, made


def settings_for(plan: Comparison, made: Strategy) -> list[str]:
    """Return the assignments that concern a strategy."""
    steps = {step.name: type(f) for step, f in zip(made.steps, made.filters, strict=True)}
    mine = [text for text in plan.settings if text.partition(".")[0] in {*steps, "select"}]
    for name, kind in steps.items():
        if plan.selection_model and "model" in _fields(kind):
            mine.append(f"{name}.model={json.dumps(plan.selection_model)}")
        if plan.target_by and "target_by" in _fields(kind):
            mine.append(f"{name}.target_by={json.dumps(plan.target_by)}")
    return mine


def _refuse_idle_settings(setting: Setting, asked: Sequence[tuple[str, str, Strategy]]) -> None:
    """A setting that no strategy takes is a mistake, not a wish."""
    used = {text for _, _, made in asked for text in settings_for(setting.plan, made)}
    idle = [text for text in setting.plan.settings if text not in used]
    if idle:
        steps = sorted({step.name for _, _, made in asked for step in made.steps})
        raise SettingsError(
            *[f"--set {text} fits no strategy; steps here: {', '.join(steps)}." for text in idle]
        )


def _fields(kind: type) -> set[str]:
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
    import hashlib

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


class _Figures:
    """What the table says about a cell's rows, from one reading of the pool."""

    def __init__(self, setting: Setting, places: Sequence[Place], progress: Progress) -> None:
        self.setting = setting
        self.random = {(p.budget, p.seed): p for p in places if p.label == "random"}
        pool = Pool(load(setting.data, progress=progress), progress=progress)
        counter = registry.create("signals", "tokens", {"tokenizer": setting.plan.model})
        self.tokens = pool.signal(counter).astype(np.int64)

    def of(self, place: Place) -> dict[str, Any]:
        """Return the figures of a cell by the names of :class:`Cell`."""
        kept = self._kept(place)
        counts = read_manifest(self.setting.selection(place))
        other = self.random.get((place.against or place.budget, place.seed))
        overlap = {}
        if other is not None and place.label != "random":
            theirs = self._kept(other)
            overlap = {
                "overlap": float((kept & theirs).sum() / (kept | theirs).sum()),
                "overlap_by_chance": chance_overlap(int(kept.sum()), int(theirs.sum()), len(kept)),
            }
        spent = [f["usd"] for f in counts["facts"].values() if f.get("usd") is not None]
        return overlap | {
            "rows": counts["counts"]["kept"],
            "short": bool(counts["counts"]["short"]),
            "response_tokens": int(self.tokens[kept].sum()),
            "median_response_length": float(np.median(self.tokens[kept])) if kept.any() else None,
            "selection_seconds": counts["timings"]["seconds"],
            "selection_usd": sum(spent) if spent else None,
        }

    def _kept(self, place: Place) -> NDArray[np.bool_]:
        import pyarrow.parquet as pq

        column = pq.read_table(self.setting.selection(place) / "decisions.parquet", columns=["kept"])["kept"]
        return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)


def _finish(setting: Setting, place: Place, figures: _Figures) -> None:
    """Train and evaluate one cell in a process of its own, unless that is done."""
    cell = setting.cell(place)
    wanted = {e.name for e in setting.evaluations}
    if (cell / CELL).exists():
        there = read_cell(cell)
        if not there.failed and wanted <= set(there.results):
            return
    cell.mkdir(parents=True, exist_ok=True)
    write_json(cell / "job.json", _job(setting, place))
    failed = train_and_evaluate(cell)
    training = cell / "model" / "training.json"
    trained = json.loads(training.read_text(encoding="utf-8")) if training.exists() else {}
    found = Cell(
        strategy=place.label,
        budget=place.budget,
        seed=place.seed,
        against=place.against,
        wanted=_rows_wanted(place),
        trained_tokens=trained.get("trained_tokens"),
        train_seconds=trained.get("seconds"),
        failed=failed,
        protocol=setting.protocol,
        **figures.of(place),
    )
    write_cell(cell, found)


def _rows_wanted(place: Place) -> int | None:
    budget = Budget.parse(place.keep) if place.keep else None
    return int(budget.amount) if budget and budget.unit == "rows" else None


def _job(setting: Setting, place: Place) -> dict[str, Any]:
    plan = setting.plan
    return {
        "rows": str((setting.selection(place) / "selected.jsonl").absolute()),
        "seed": place.seed,
        "trainer": plan.trainer,
        "train": {"model": plan.model, "recipe": plan.recipe, **plan.train},
        "evaluations": {e.name: asdict(e) for e in setting.evaluations},
        "opponents": {name: str(_opponent(setting, place, name).absolute()) for name in REFERENCES},
    }


def _opponent(setting: Setting, place: Place, label: str) -> Path:
    """Return where the reference's model of the same seed and size is, or will be."""
    size = place.against or place.budget
    if size == "full":
        size = next(b for b in setting.plan.keep if b != OWN) if set(setting.plan.keep) - {OWN} else OWN
    budget = "full" if label == "full" else size
    return setting.cell(replace(place, label=label, budget=budget)) / "model"


def train_and_evaluate(cell: Path) -> str:
    """Run the worker; return why it failed, or nothing."""
    with (cell / "log.txt").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "dfilter.worker", str(cell)], stdout=log, stderr=log
        )
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    if code == 0:
        return ""
    lines = (cell / "log.txt").read_text(encoding="utf-8").strip().splitlines()
    return (
        f"{lines[-1].removeprefix('Error: ') if lines else 'it said nothing'} (exit {code}; {cell}/log.txt)"
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
