"""A cell's figures are those of its folder, of its selection as it is now, and of one size in a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfilter.compare import compare
from dfilter.comparison import Comparison
from dfilter.errors import FolderError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell, read_cells
from dfilter.types import EvalResult


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap: Callable[..., Comparison]) -> Comparison:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return cheap(tmp_path, references=("random",))


def figures(cells: list[Cell]) -> list[tuple[object, ...]]:
    return [(c.strategy, c.budget, c.seed, c.against, c.overlap, c.rows, c.selected_as) for c in cells]


@pytest.mark.parametrize("seeds", [1, 2])
def test_figures_follow_a_selection_that_was_made_anew_with_the_same_rows(
    plan: Comparison, seeds: int
) -> None:
    compare(replace(plan, seeds=2, settings=("lima.min_characters=1",)))
    other = replace(plan, settings=("lima.min_characters=2",), seeds=seeds)
    compare(replace(other, force=True))
    assert (plan.out.parent / "calls").read_text().split().count("lima-8-seed0") == 1  # the same rows
    for cell in (cell for cell in read_cells(plan.out) if cell.strategy == "lima"):
        steps = json.dumps(dict(cell.selected_as))
        assert '"min_characters": 2' in steps, cell.seed
    compare(replace(other, seeds=2))  # its own folder is not refused
    compare(replace(other, out=plan.out.with_name("equal"), keep=("6",)))
    leaderboard([*read_cells(plan.out), *read_cells(plan.out.with_name("equal"))])


@pytest.mark.parametrize("pair", [
    ("lima-8-seed0", "random-8-seed0"),
    *(pytest.param(pair, marks=pytest.mark.slow) for pair in [
        ("random-8-seed0", "random-8-seed1"), ("lima-8-seed0", "lima-6-seed0"),
    ]),
])  # fmt: skip
def test_figures_of_another_cell_are_in_no_table_and_are_mended(
    plan: Comparison, pair: tuple[str, str]
) -> None:
    plan = replace(plan, keep=("8", "6"), seeds=2)
    right = figures(compare(plan))
    one, two = (plan.out / "cells" / name / "cell.json" for name in pair)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(FolderError, match="run the comparison again to mend it"):
        read_cells(plan.out)
    assert figures(compare(plan)) == right
    assert len(read_cells(plan.out)) == len(right)
    assert len((plan.out.parent / "calls").read_text().split()) == len(right)  # nothing is trained again


@pytest.mark.parametrize("name", ["cell.json", "results/near.json"])
def test_what_lost_its_checksum_is_damaged(plan: Comparison, name: str) -> None:
    compare(plan)
    file = plan.out / "cells" / "lima-8-seed0" / name
    right = file.read_bytes()
    held = json.loads(right)
    del held["checksum"]
    if "values" in held:
        held["values"][0] += 1
    else:
        held["selection_usd"] = 0.5
    file.write_text(json.dumps(held))
    with pytest.raises(FolderError, match="is damaged; run the comparison again to mend it"):
        read_cells(plan.out)
    compare(plan)
    assert file.read_bytes() == right


def test_fewer_seeds_leave_one_size_in_a_row(
    plan: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("half.toml")
    file.write_text('name = "half"\nsteps = [{filter = "random", at_least = 0.5}]\n')
    plan = replace(plan, strategies=(str(file),), keep=("own", "8"), seeds=3)
    whole = figures(compare(plan))
    compare(replace(plan, seeds=1))
    held = read_cells(plan.out)
    own = [cell for cell in held if (cell.strategy, cell.budget) == ("half", "own")]
    assert len(own) == 3
    assert len({cell.against for cell in own}) == 1
    fixed = [cell for cell in held if (cell.strategy, cell.budget) == ("half", "8")]
    assert all(cell.overlap is not None for cell in fixed)  # what stands beside another seed stays there
    leaderboard(held)
    assert figures(compare(plan)) == whole


def test_a_row_of_several_sizes_is_refused() -> None:
    found = EvalResult(["p0", "p1"], np.array([0.5, 1.0]), "m", higher_is_better=True)
    cells = [Cell("half", "own", seed, against="13", results={"m": found}) for seed in (0, 1)]
    leaderboard(cells)
    with pytest.raises(FolderError, match=r"'half' at own .* of several sizes \(13, 16\)"):
        leaderboard([*cells, replace(cells[0], seed=2, against="16")])


def test_files_that_no_job_asked_for_are_no_results(
    tmp_path: Path, cheap: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    plan = cheap(tmp_path, seeds=1)
    compare(plan)
    before = leaderboard(read_cells(plan.out)).render("json")
    for folder in (plan.out / "cells").iterdir():
        (asked,) = (folder / "results").glob("*.json")
        (folder / "results" / "other.json").write_bytes(asked.read_bytes())
        (folder / "results" / "notes.json").write_text("mine, and no JSON")
    assert leaderboard(read_cells(plan.out)).render("json") == before
    compare(plan)
    assert leaderboard(read_cells(plan.out)).render("json") == before
    assert (folder / "results" / "notes.json").read_text() == "mine, and no JSON"
