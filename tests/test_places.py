"""What a comparison makes and in which order, as its plan says it beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfilter import registry, sample
from dfilter.compare import compare
from dfilter.comparison import Comparison, trainer_of
from dfilter.data import load
from dfilter.errors import FolderError, SettingsError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.outlook import outlook
from dfilter.places import Size, entry, lay_out
from dfilter.probe import Probe
from dfilter.progress import Silent
from dfilter.run_folder import strategy_identity
from dfilter.selection import select
from dfilter.strategy import from_table
from dfilter.types import EvalResult

PARTS = Path(__file__).with_name("compare_parts.py")
CHEAP = {"model": "words", "recipe": "none", "trainer": f"{PARTS}:Mean", "evals": (f"{PARTS}:Near",)}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    sample.write(tmp_path / "data", rows=120, seed=3)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    data = str(tmp_path / "data" / "pool.jsonl")
    return Comparison(out=tmp_path / "out", data=data, strategies=("lima",), keep=("10",), seeds=2, **CHEAP)


def planned(
    plan: Comparison, sizes: dict[str, Size] | None = None, against: set[str] | None = None
) -> list[str]:
    """The names of the cells; every selection has ten rows, or what is said for the strategy."""
    found = lay_out(plan, against or set(), lambda place: (sizes or {}).get(place.label, Size(10)))
    return list(dict.fromkeys(f"{place.label} {place.budget}" for place in found))


def trained(plan: Comparison) -> list[str]:
    """The cells that a comparison trains, in their order."""
    compare(plan)
    return (plan.out.parent / "calls").read_text().split()


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ({}, ["random 10", "longest 10", "full full", "lima 10"]),
        (
            {"strategies": ("random", "longest"), "references": ("full",)},
            ["random 10", "longest 10", "full full"],
        ),
        ({"strategies": ("random",), "references": (), "keep": ("own",)}, ["random 5%"]),
        ({"strategies": ("longest",), "references": (), "keep": ("own", "5")}, ["longest 5", "longest 1000"]),
        ({"strategies": ("full",), "references": ()}, ["full full"]),
        ({"keep": ("own",)}, ["random 10", "longest 10", "full full", "lima own"]),
        ({"keep": ("20", "10"), "references": ("random",)}, ["random 20", "random 10", "lima 20", "lima 10"]),
    ],
)
def test_no_named_strategy_disappears(plan: Comparison, change: dict[str, object], cells: list[str]) -> None:
    assert planned(replace(plan, **change)) == cells  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"strategies": ("random", "longest"), "references": ("full",), "seeds": 1},
        pytest.param({"keep": ("own", "20")}, marks=pytest.mark.slow),
    ],
)
def test_what_is_planned_is_what_is_trained(plan: Comparison, change: dict[str, object]) -> None:
    made = replace(plan, **change)  # type: ignore[arg-type]
    told = outlook(made, Silent()).splitlines()  # its probe trains, too
    done = trained(made)[1:]
    assert int(told[0].split()[0]) == len(done)
    listed = [
        " ".join(line.split()[:2]) for line in told[1 : told.index(next(t for t in told if "Training" in t))]
    ]
    groups = list(dict.fromkeys(name.rpartition("-seed")[0] for name in done))
    assert len(listed) == len(groups)
    assert [line.split()[0] for line in listed] == [name.partition("-")[0] for name in groups]


@pytest.mark.parametrize(
    ("against", "keep"),
    [
        ("longest", ("own",)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("random", ("own",)),
                ("full", ("own",)),
                ("longest", ("20", "10")),
            ]
        ),
    ],
)
def test_every_opponent_is_there_when_it_is_needed(
    plan: Comparison, against: str, keep: tuple[str, ...]
) -> None:
    plan = replace(plan, evals=(f"{PARTS}:Versus",), against=against, keep=keep, seeds=1)
    cells = compare(plan)
    assert [cell.failed for cell in cells if cell.failed] == []
    for cell in cells:
        if cell.strategy == against:
            assert not cell.results["versus"].values.any()  # against itself


def test_an_opponent_that_takes_no_part_is_said_before_anything_is_selected(plan: Comparison) -> None:
    with pytest.raises(SettingsError, match="leave out --no-longest"):
        compare(replace(plan, evals=(f"{PARTS}:Versus",), against="longest", references=("random",)))
    assert not (plan.out / "selections").exists()


def tokens_of(cells: list[object], label: str) -> set[int]:
    return {cell.response_tokens for cell in cells if cell.strategy == label}  # type: ignore[attr-defined]


def test_a_budget_in_tokens_is_one_in_the_trained_models_tokens_for_everybody(plan: Comparison) -> None:
    cells = compare(replace(plan, keep=("300tok",), references=("random", "longest")))
    counter = registry.create("signals", "tokens", {"tokenizer": "words"})
    most = int(counter.compute(list(load(plan.data))).max())
    for label in ("lima", "random", "longest"):
        assert all(300 - most < count <= 300 for count in tokens_of(cells, label))  # type: ignore[arg-type]


@pytest.mark.parametrize("label", ["random", "longest"])
def test_a_budget_in_tokens_is_what_is_trained_after_cutting(plan: Comparison, label: str) -> None:
    """Of the sample's 120 rows 28 are longer than 128 tokens, and the training loses their ends."""
    real = replace(plan, trainer="dfilter", model="tiny", train={"overrides": {"max_tokens": 128}})
    real = replace(real, keep=("600tok",), recipe="quick")
    trainer = registry.create("trainers", "dfilter", trainer_of(real))
    for seed in range(1 if label == "longest" else 4):
        made = entry(real, label).strategy
        found = select(str(real.data), strategy=made, keep="600tok", seed=seed)
        told, encoded = trainer.plan(list(found), seed=seed)
        assert encoded.cut
        assert 0.98 * 600 <= told.trained_tokens <= 600
    recorded = from_table(made.table())  # a run's own strategy file repeats it
    assert list(select(str(real.data), strategy=recorded, keep="600tok", seed=seed)) == list(found)
    plain = strategy_identity(entry(replace(real, keep=("10",)), label).strategy, "10")
    assert strategy_identity(made, "10") == plain  # budgets in rows are what they were


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "cafe\u0301"), ("two words", "two\u00a0words"),
                                           ("ifd", "if\u200bd"), ("random", "ran\u200bdom")])  # fmt: skip
def test_names_that_look_the_same_are_one_name(
    plan: Comparison, tmp_path: Path, one: str, other: str
) -> None:
    files = []
    for number, name in enumerate((one, other)):
        files.append(str(tmp_path / f"{number}.toml"))
        Path(files[-1]).write_text(f'name = "{name}"\nsteps = [{{filter = "lima"}}]\n')
    with pytest.raises(SettingsError, match=r"Two strategies are called|reference's name"):
        lay_out(replace(plan, strategies=files[one == "random" :]), set(), lambda place: Size(10))
    result = EvalResult(["p0"], np.array([0.5]), "m", higher_is_better=True)
    cells = [Cell(name, "10", 0, results={"m": result}) for name in (one, other)]
    with pytest.raises(FolderError, match="letters that look alike"):
        leaderboard(cells)


def test_a_selection_with_fewer_tokens_meets_references_with_as_few(plan: Comparison, tmp_path: Path) -> None:
    some = [json.loads(line)["id"] for line in Path(str(plan.data)).read_text().splitlines()[:7]]
    (tmp_path / "ids.json").write_text(json.dumps(some))
    plan = replace(plan, strategies=("given",), settings=(f"given.file='{tmp_path}/ids.json'",), seeds=1)
    cells = compare(replace(plan, keep=("900tok",), references=("random",)))
    (mine,) = [cell for cell in cells if cell.strategy == "given"]
    assert mine.short
    assert mine.against == f"{mine.response_tokens}tok"
    drawn = {cell.budget: cell.response_tokens for cell in cells if cell.strategy == "random"}
    assert drawn[mine.against] <= mine.response_tokens < drawn["900tok"]  # type: ignore[operator]


def test_steps_and_tokens_are_not_scaled_by_rows(plan: Comparison) -> None:
    real = replace(plan, trainer="dfilter", recipe="quick", model="tiny", keep=("10", "40"), evals=())
    trainer = {name: registry.create("trainers", "dfilter", {"model": "tiny", "recipe": "quick", name: 40})
               for name in ("steps", "tokens", "epochs")}  # fmt: skip
    rows = list(load(real.data))
    assert trainer["tokens"].trained_tokens(rows, 10) == trainer["tokens"].trained_tokens(rows, 9000) == 40
    for name in ("steps", "epochs"):
        plan_, _ = trainer[name].plan(rows, seed=0)
        assert trainer[name].trained_tokens(rows, len(rows)) == pytest.approx(plan_.trained_tokens, rel=1e-6)
    assert trainer["epochs"].trained_tokens(rows, 240) == 2 * trainer["epochs"].trained_tokens(rows, 120)


def test_a_plan_has_the_time_of_every_part_and_the_models_size(plan: Comparison) -> None:
    held = str(Path(str(plan.data)).with_name("heldout.jsonl"))
    real = replace(plan, trainer="dfilter", recipe="quick", model="tiny", evals=(f"heldout:{held}",), seeds=1)
    real = replace(real, train={"tokens": 500}, references=("random",))
    told = outlook(real, Silent())
    assert "Training and evaluation: about 1,000 trained tokens" in told  # two cells of 500
    assert "MB of models" in told
    assert "a cell to start and save" in told
    assert "evaluation" in told.partition("a probe of 32 rows")[2]
    assert not plan.out.exists()


def test_a_plan_counts_the_prompts_that_can_be_shown(
    plan: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfilter.outlook.probe", lambda *_: Probe(failed="left out here"))
    file = Path(str(plan.data)).with_name("asked.jsonl")
    lines = [{"prompt": f"word {i}", "response": "a", "answer": "a"} for i in range(20)]
    lines += [{"prompt": "word " * 9_999, "response": "a", "answer": "a"} for _ in range(2)]
    file.write_text("\n".join(map(json.dumps, lines)))
    real = replace(plan, trainer="dfilter", recipe="quick", model="tiny", seeds=3, references=("random",))
    real = replace(real, keep=("24", "20%"))
    told = outlook(replace(real, evals=(f"exact:{file}", f"heldout:{file}")), Silent())
    assert "24 and 20% of random are 24 rows each, and are trained apart" in told
    for name in ("exact", "heldout"):
        assert f"{name}: 2 of 22 prompts cannot be shown to tiny" in told
        assert f"{name}: 20 prompts and 3 seeds find" in told


@pytest.mark.slow
def test_the_probe_of_a_plan_chooses_no_epoch(plan: Comparison) -> None:
    """It makes one pass, which ends before the first epoch that lima chooses from."""
    held = str(Path(str(plan.data)).with_name("heldout.jsonl"))
    choose = {"evaluator": "heldout", "settings": {"source": held}}
    real = replace(plan, trainer="dfilter", recipe="lima", model="tiny", evals=(f"heldout:{held}",), seeds=1)
    told = outlook(replace(real, train={"choose": choose}, references=("random",)), Silent())
    assert "a probe of 32 rows" in told
    assert "failed" not in told
