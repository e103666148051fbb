"""A comparison: what is made once, what continues, what is refused, and what the table is told."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dfilter import sample
from dfilter.cli import main
from dfilter.compare import compare, select_all, selection_folder
from dfilter.comparison import Comparison, from_options, only, prepare
from dfilter.data import load
from dfilter.errors import DFilterError, FolderError, SettingsError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell, read_cells, write_cell
from dfilter.llm.spend import spent
from dfilter.outlook import outlook
from dfilter.progress import Silent
from dfilter.store import home
from dfilter.testing import Heard, ScriptedServer
from dfilter.types import EvalResult

PARTS = Path(__file__).with_name("compare_parts.py")
TRAINER, NEAR, SPREAD = f"{PARTS}:Mean", f"{PARTS}:Near", f"{PARTS}:Spread"


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sample.write(tmp_path / "data", rows=120, seed=3)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "data" / "pool.jsonl"


@pytest.fixture
def plan(pool: Path, tmp_path: Path) -> Comparison:
    return Comparison(
        out=tmp_path / "out",
        data=str(pool),
        strategies=("longest",),
        keep=("10",),
        seeds=2,
        model="words",
        recipe="none",
        trainer=TRAINER,
        evals=(NEAR,),
        references=("random", "full"),
    )


@pytest.fixture
def calls(tmp_path: Path):
    def read() -> list[str]:
        file = tmp_path / "calls"
        return file.read_text().split() if file.exists() else []

    return read


@dataclass(frozen=True)
class Finished:
    """A comparison that is over: a strategy and its references, two budgets, two seeds."""

    plan: Comparison
    cells: list[Cell]
    calls: list[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """For tests that look at a comparison or are refused; what adds to it takes a copy."""
    folder = tmp_path_factory.mktemp("finished")
    sample.write(folder / "data", rows=120, seed=3)
    plan = Comparison(
        out=folder / "out",
        data=str(folder / "data" / "pool.jsonl"),
        strategies=("lima",),
        keep=("10", "20"),
        seeds=2,
        model="words",
        recipe="none",
        trainer=TRAINER,
        evals=(NEAR,),
        settings=("lima.min_characters=10",),
        margin=0.1,
        references=("random", "full"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(folder / "home"))
        patch.setenv("CALLS", str(folder / "calls"))
        return Finished(plan, compare(plan), (folder / "calls").read_text().split())


def test_every_strategy_budget_and_seed_is_trained_once_with_its_references(finished) -> None:
    cells = finished.cells
    assert {(c.strategy, c.budget, c.seed) for c in cells} == {
        (s, b, k)
        for s, b in [("lima", "10"), ("lima", "20"), ("random", "10"), ("random", "20"), ("full", "full")]
        for k in (0, 1)
    }
    assert len(finished.calls) == len(cells) == len(set(finished.calls))
    assert {c.rows for c in cells if c.budget == "20"} == {20}
    assert all(c.overlap is not None for c in cells if c.strategy == "lima")


def test_a_second_run_trains_nothing_and_gives_the_same_table(finished, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "none"))
    first = leaderboard(finished.cells).render("json")
    assert leaderboard(compare(replace(finished.plan))).render("json") == first  # made, it names its code
    assert not (tmp_path / "none").exists()


def test_a_strategy_that_is_added_costs_only_itself(finished, monkeypatch, tmp_path, calls) -> None:
    shutil.copytree(finished.plan.out, tmp_path / "out")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    plan = replace(finished.plan, out=tmp_path / "out", keep=("10",))
    source = plan.out.parent / "other.toml"
    source.write_text('name = "other"\n[[steps]]\nfilter = "longest"\nsettings = { unit = "characters" }\n')
    compare(replace(plan, strategies=("lima", str(source))))
    assert sorted(calls()) == ["other-10-seed0", "other-10-seed1"]


def test_random_is_drawn_anew_for_each_seed_and_a_deterministic_strategy_is_not(finished) -> None:
    plan = finished.plan
    names = {p.name for p in (plan.out / "selections").iterdir()}
    assert {"random-10-seed0", "random-10-seed1", "lima-10-seed0", "full-full-seed0"} <= names
    assert "lima-10-seed1" not in names
    drawn = [(plan.out / "selections" / f"random-10-seed{k}" / "selected.jsonl").read_text() for k in (0, 1)]
    assert drawn[0] != drawn[1]


def test_a_budget_selects_the_same_rows_alone_and_behind_a_smaller_one(plan, tmp_path, monkeypatch) -> None:
    kept = []
    for number, keep in enumerate([("40",), ("10", "40"), ("60", "10", "40")]):
        monkeypatch.setenv("DFILTER_HOME", str(tmp_path / f"home{number}"))
        own = replace(
            plan, strategies=(SPREAD,), keep=keep, seeds=1, references=(), out=tmp_path / f"out{number}"
        )
        own.out.mkdir()
        setting = prepare(own, Silent())
        place = next(place for place in select_all(setting, Silent()) if place.budget == "40")
        kept.append((selection_folder(setting, place) / "decisions.parquet").read_bytes())
    assert kept == [kept[0]] * 3


def test_cells_that_were_judged_by_two_models_under_one_name_are_said(plan, monkeypatch) -> None:
    lima = {"strategies": ("lima",), "settings": ("lima.min_characters=10",), "seeds": 1}
    plan = replace(plan, evals=(f"{PARTS}:Judged",), references=(), **lima)
    monkeypatch.setenv("LOADED", "a.gguf")
    before = Heard()
    compare(plan, before)
    assert before.warnings == []
    monkeypatch.setenv("LOADED", "b.gguf")  # the server is started again with another model
    after = Heard()
    compare(replace(plan, references=("random",)), after)
    (warning,) = after.warnings
    assert "judge answered as" in warning
    assert "a.gguf (40 answers)" in warning
    assert "b.gguf (40 answers)" in warning


def test_a_short_strategy_is_marked_and_compared_at_its_real_size(plan, tmp_path) -> None:
    chosen = [json.loads(line)["id"] for line in Path(plan.data).read_text().splitlines()[:7]]
    (tmp_path / "ids.json").write_text(json.dumps(chosen))
    cells = compare(
        replace(plan, seeds=1, strategies=("given",), settings=(f"given.file='{tmp_path}/ids.json'",))
    )
    mine = [c for c in cells if c.strategy == "given"]
    assert all(c.short and c.rows == 7 and c.against == "7" for c in mine)
    assert {c.rows for c in cells if c.strategy == "random" and c.budget == "7"} == {7}


def test_test_prompts_that_were_selected_are_counted(plan, tmp_path) -> None:
    first = [json.loads(line) for line in Path(plan.data).read_text().splitlines()[:5]]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in first))
    cells = compare(replace(plan, seeds=1, evals=(f"{NEAR}:{prompts}",)))
    full = next(c for c in cells if c.strategy == "full")
    drawn = next(c for c in cells if c.strategy == "random")
    assert full.contaminated == {"near": 5}
    assert drawn.contaminated["near"] < 5


def test_a_cell_that_fails_is_reported_and_the_others_go_on(plan) -> None:
    cells = compare(replace(plan, seeds=1, train={"refuse_below": 50}))
    failed = {c.strategy for c in cells if c.failed}
    assert failed == {"random", "longest"}
    assert all("too few" in c.failed for c in cells if c.failed)
    assert all(c.results for c in cells if c.strategy == "full")


def test_another_protocol_is_refused_with_the_difference(finished) -> None:
    with pytest.raises(FolderError, match="recipe was none and is other"):
        compare(replace(finished.plan, recipe="other"))


def test_a_margin_cannot_be_chosen_after_the_results(finished) -> None:
    with pytest.raises(FolderError, match="margin"):
        compare(replace(finished.plan, margin=0.5))


def test_a_setting_that_fits_no_strategy_is_refused(plan) -> None:
    with pytest.raises(SettingsError, match="fits no strategy"):
        compare(replace(plan, settings=("nothing.x=1",)))


def test_a_trainer_that_could_not_start_is_refused_before_anything_is_selected(plan) -> None:
    real = replace(plan, trainer="dfilter", recipe="quick", model="tiny")
    with pytest.raises(SettingsError, match=r"--train overrides\.learning_rate=VALUE"):
        compare(replace(real, train={"learning_rate": 1e-5}))
    with pytest.raises(SettingsError, match="recipe quick has no setting 'lr'"):
        compare(replace(real, train={"overrides": {"lr": 1e-5}}))
    with pytest.raises(SettingsError, match="Did you mean 'quick'"):
        compare(replace(real, recipe="quik"))
    with pytest.raises(DFilterError, match="'not-a-model'"):
        compare(replace(real, model="not-a-model"))
    assert not (plan.out / "selections").exists()


def test_what_is_set_aside_is_in_no_pool(plan) -> None:
    setting = replace(plan, evals=("heldout:10%",))
    plan.out.mkdir()
    made = prepare(setting, Silent())
    held = {row.key for row in load(plan.out / "heldout.jsonl")}
    left = {row.key for row in load(made.data)}
    assert len(held) >= 10
    assert not held & left
    assert made.evaluations[0].settings["source"] == str(plan.out / "heldout.jsonl")


def test_a_file_of_options_gives_way_to_what_was_typed(tmp_path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'data = "x.jsonl"\nstrategies = ["lima", "kcenter"]\nkeep = ["1k"]\nseeds = 5\nno-full = true\n'
    )
    options = {"strategies": "kcenter", "keep": "own", "seeds": 2, "train": ()}
    made = from_options(str(file), None, options, typed={"seeds"})
    assert (made.data, made.seeds) == ("x.jsonl", 2)
    assert list(made.strategies) == ["lima", "kcenter"]
    assert "full" not in made.references


def test_a_later_call_of_fewer_cells_has_the_p_of_the_whole_folder(tmp_path, monkeypatch) -> None:
    draw, out, held = np.random.default_rng(1), tmp_path / "out", []
    for name, budget, seed in itertools.product(("random", "lima"), ("10", "20"), range(3)):
        values = np.arange(40) / 10 + draw.normal((name == "lima") * 0.1, 0.2, 40)
        found = EvalResult([f"p{i}" for i in range(40)], values, "score", higher_is_better=True)
        held.append(Cell(name, budget, seed, rows=int(budget), results={"near": found}))
        write_cell(out / "cells" / f"{name}-{budget}-seed{seed}", held[-1])

    def table(*budgets: str) -> tuple[str, dict[str, str]]:
        named = [cell for cell in held if cell.budget in budgets]
        monkeypatch.setattr("dfilter.compare.compare", lambda plan, progress: named)
        done = CliRunner().invoke(main, ["compare", "-o", str(out), "--keep", ",".join(budgets)])
        assert done.exit_code == 0, done.output
        read = csv.DictReader((out / "leaderboard.csv").read_text().splitlines())
        return done.stdout, {row["budget"]: row["p_holm"] for row in read if row["strategy"] == "lima"}

    _, whole = table("10", "20")
    told, part = table("10")
    alone = leaderboard([cell for cell in held if cell.budget == "10"]).rows
    assert part == {"10": whole["10"]}
    assert float(whole["10"]) > max(row.p for row in alone if row.random)
    assert "2 rows of the table are hidden" in told
    assert "2 rows of the table are hidden" in (out / "leaderboard.md").read_text()


def test_a_table_is_filtered_with_the_references_of_its_sizes(finished) -> None:
    kept = only(finished.cells, ["lima"], ["10"])
    assert {(c.strategy, c.budget) for c in kept} == {("lima", "10"), ("random", "10"), ("full", "full")}


def test_the_outlook_counts_cells_and_leaves_nothing_behind(plan, calls) -> None:
    text = outlook(replace(plan, strategies=("lima",)), Silent())
    assert text.startswith("6 cells")
    assert "trained tokens" in text
    assert not plan.out.exists()


def test_the_outlook_prices_what_is_still_to_be_made(finished, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    told = outlook(finished.plan, Silent())
    assert "10 of them are in" in told
    assert "there is nothing to train" in told
    assert "Training and evaluation" not in told
    assert not (tmp_path / "calls").exists()  # no probe, either
    more = outlook(replace(finished.plan, keep=("10", "20", "40"), seeds=2), Silent())
    assert "10 of them are in" in more
    assert "what follows is of the other 4" in more
    fresh = outlook(
        replace(finished.plan, keep=("40",), out=tmp_path / "new", references=("random",)), Silent()
    )
    price = re.compile(r"Training and evaluation: about [\d,]+ trained tokens")
    assert price.search(more)[0] == price.search(fresh)[0]  # of the four cells at 40


def command(plan: Comparison) -> list[str]:
    return [
        *(
            sys.executable,
            "-m",
            "dfilter.cli",
            "compare",
            plan.data,
            "-s",
            "lima",
            "--set",
            "lima.min_characters=10",
        ),
        *(
            "--keep",
            "10",
            "--seeds",
            "2",
            "--model",
            "words",
            "--recipe",
            "none",
            "--eval",
            NEAR,
            "--no-longest",
        ),
        *("-o", str(plan.out), "--trainer", TRAINER, "--format", "json"),
    ]


@pytest.mark.kills
@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.soak)]
)
def test_a_killed_comparison_ends_with_the_same_table(plan, tmp_path, dying, kills) -> None:
    whole = replace(plan, out=tmp_path / "whole")
    changes = dying.whole(command(whole))
    dying.killed(command(plan), changes, kills)
    ended = subprocess.run(command(plan), capture_output=True, check=True)
    again = subprocess.run(command(whole), capture_output=True, check=True)
    assert table(ended.stdout) == table(again.stdout)


def table(printed: bytes) -> object:
    """The table without what differs between any two runs: seconds."""
    text = json.loads(printed)
    return json.loads(
        json.dumps(text), object_hook=lambda d: {k: v for k, v in d.items() if "seconds" not in k}
    )


@pytest.mark.slow
def test_a_judge_that_selects_and_one_of_its_family_that_compares(pool: Path, tmp_path: Path) -> None:
    """The whole line over real sockets: rated rows, trained models, both orders, and what it cost."""
    (home() / "prices.toml").write_text('[models]\n"gpt-m" = { input = 10.0, output = 40.0 }\n')
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in ("Say hello.", "What is 3 + 4?"))
    )

    def says(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        texts = [text for _, text in re.findall(r"<<<(\w+)\n(.*?)\n\1>>>", asked, re.DOTALL)]
        if not texts:
            return "3"  # the probe of what the server can do
        if "### Instruction" in asked:
            return f"{min(len(texts[-1]) / 40, 5):.1f}\nIts length."
        longer = len(texts[-2]) - len(texts[-1])
        return f"{5 + (longer > 0)} {5 + (longer < 0)}\nThe longer one."

    with ScriptedServer(says, price=(10.0, 40.0)) as server:
        address = json.dumps(server.url)
        cells = compare(
            Comparison(
                out=tmp_path / "out",
                data=str(pool),
                strategies=("alpagasus",),
                keep=("20",),
                seeds=1,
                model="tiny",
                train={"steps": 20, "overrides": {"learning_rate": 0.05}},
                evals=(f"pairwise:{prompts}",),
                settings=('judge.judge.model="gpt-m"', f"judge.judge.base_url={address}"),
                judges=("gpt-m",),
                base_url=server.url,
                references=("random",),
                max_usd=5.0,
            )
        )
        (budget,) = [one for one in spent() if "budget" in one.of]  # selection and evaluations share it
        assert budget.of["budget"] == str(tmp_path / "out")
        assert budget.totals.usd == pytest.approx(server.bill)
        mine = next(cell for cell in cells if cell.strategy == "alpagasus")
        found = mine.results["pairwise"]
        longer = np.sign(found.facts["length_difference"])
        assert longer.any()
        assert found.values.tolist() == ((1 + longer) / 2).tolist()
        assert mine.selection_usd is not None
        assert 0 < mine.selection_usd <= server.bill
    assert any("the GPT family evaluates the models and selects" in note for note in leaderboard(cells).notes)


def test_cells_can_be_read_back_from_the_folder(finished) -> None:
    cells = finished.cells
    again = read_cells(finished.plan.out)
    assert sorted((c.strategy, c.seed) for c in again) == sorted((c.strategy, c.seed) for c in cells)
