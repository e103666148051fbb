"""What lies in a folder and is not ours is neither written over nor removed, with --force or without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dfilter.cli import main
from dfilter.compare import compare
from dfilter.comparison import Comparison, prepare
from dfilter.errors import DFilterError, FolderError, InputError, SettingsError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import read_cells
from dfilter.progress import Silent
from dfilter.protocol import chosen_late, recorded_margin
from dfilter.run import Request, run
from dfilter.run_folder import read_manifest
from dfilter.testing import Heard

PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture
def plan(tmp_path: Path, in_process: None, cheap: Callable[..., Comparison]) -> Comparison:
    return cheap(tmp_path, references=("random",))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_the_users_data_is_no_place_for_a_comparison(plan: Comparison, force: bool) -> None:
    data = Path(str(plan.data)).parent
    before = files_of(data)
    for evals in (plan.evals, ("heldout:10%",)):
        with pytest.raises(FolderError, match="is not a comparison's folder"):
            compare(replace(plan, out=data, evals=evals, force=force))
    assert files_of(data) == before


@pytest.mark.parametrize("force", [False, True])
def test_inputs_inside_the_comparison_are_refused(plan: Comparison, force: bool) -> None:
    compare(plan)
    (plan.out / "pool.jsonl").write_bytes(Path(str(plan.data)).read_bytes())
    before = files_of(plan.out)
    with pytest.raises(FolderError, match="keeps files of its own"):
        compare(replace(plan, data=str(plan.out / "pool.jsonl"), margin=0.5, force=force))
    assert files_of(plan.out) == before


def test_a_mistake_with_force_costs_nothing_that_was_finished(plan: Comparison, tmp_path: Path) -> None:
    compare(plan)
    before = files_of(plan.out)
    with pytest.raises(SettingsError, match="fits no strategy"):
        compare(replace(plan, margin=0.5, settings=("nope.x=1",), force=True))
    assert files_of(plan.out) == before
    folder = run(Request(str(plan.data), "longest", "5", out=tmp_path / "run"))
    before = files_of(folder)
    with pytest.raises(InputError, match="No row fits"):
        run(Request(str(plan.data), "longest", "5", where=["id=nothing"], out=folder, force=True))
    assert files_of(folder) == before


@pytest.mark.parametrize("force", [False, True])
def test_runs_and_comparisons_stay_out_of_each_other(plan: Comparison, tmp_path: Path, force: bool) -> None:
    compare(plan)
    folder = run(Request(str(plan.data), "longest", "5", out=tmp_path / "run"))
    before = files_of(plan.out) | files_of(folder)
    for out in (plan.out, plan.out / "cells" / "lima-8-seed0"):
        with pytest.raises(FolderError, match="is not a run folder"):
            run(Request(str(plan.data), "longest", "5", out=out, force=force))
    with pytest.raises(FolderError, match="is not a comparison's folder"):
        compare(replace(plan, out=folder, force=force))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(DFilterError):
            compare(replace(plan, out=out))
        with pytest.raises(DFilterError):
            run(Request(str(plan.data), "longest", "5", out=out))
    assert files_of(plan.out) | files_of(folder) == before


def rows_of(folder: Path) -> dict[str, str]:
    return {cell.name: json.loads((cell / "identity.json").read_text())["identity"]["rows"]["content"]
            for cell in (folder / "cells").iterdir()}  # fmt: skip


@pytest.fixture
def given(plan: Comparison, tmp_path: Path) -> Comparison:
    """Two seeds of a selection that is now another one."""
    ids = [json.loads(line)["id"] for line in Path(str(plan.data)).read_text().splitlines()]
    file = tmp_path / "given.json"
    settings = (f"given.file={json.dumps(str(file))}",)
    plan = replace(plan, strategies=("given",), settings=settings, seeds=2)
    file.write_text(json.dumps(ids[:8]))
    compare(plan)
    file.write_text(json.dumps(ids[20:28]))
    return plan


def test_cells_beyond_the_plan_do_not_outlive_their_selection(given: Comparison) -> None:
    with pytest.raises(FolderError, match=r"given\.json"):
        compare(replace(given, seeds=1))
    compare(replace(given, seeds=1, force=True))
    assert set(rows_of(given.out)) == {"given-8-seed0", "random-8-seed0", "random-8-seed1"}
    fresh = replace(given, out=given.out.with_name("fresh"))
    compare(fresh)
    compare(given)
    assert rows_of(given.out) == rows_of(fresh.out)
    assert len(read_cells(given.out)) == 4


def test_a_comparison_that_stopped_after_selecting_anew_shows_no_old_cell(given: Comparison) -> None:
    forced = replace(given, force=True)
    folder = given.out / "selections" / "given-8-seed0"
    setting = prepare(forced, Silent())
    run(replace(_request_of(setting, folder), force=True))
    with pytest.raises(FolderError, match="holds no more"):
        read_cells(given.out)
    with pytest.raises(FolderError, match="--force"):
        compare(given)
    assert {cell.failed for cell in compare(forced)} == {""}


def _request_of(setting: Any, folder: Path) -> Request:
    return Request(setting.data, "given", "8", seed=0, settings=setting.plan.settings, out=folder)


# What stands in the table


def half(name: str, share: float = 0.5) -> str:
    """Write a strategy whose size every seed decides anew, and return its file."""
    file = Path(f"{name}.toml")
    file.write_text(f'name = "{name}"\nsteps = [{{filter = "random", at_least = {share}}}]\n')
    return str(file)


@pytest.mark.slow
def test_seeds_added_to_a_natural_size_leave_no_cell_beside_the_old_reference(
    plan: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = replace(plan, strategies=(half("half"),), keep=("own",))
    one = compare(plan)
    added, fresh = (compare(replace(plan, seeds=4, out=out)) for out in (plan.out, tmp_path / "fresh"))
    assert one[-1].against != fresh[-1].against  # the median of one size, and of four
    assert [(c.strategy, c.seed, c.against, c.overlap, c.overlap_by_chance) for c in added] == [
        (c.strategy, c.seed, c.against, c.overlap, c.overlap_by_chance) for c in fresh
    ]
    calls = Path("calls").read_text().split()
    assert calls.count("half-own-seed0") == 2  # once in each folder: figures need no training


def test_references_added_later_stand_beside_the_cells_before_them(plan: Comparison) -> None:
    assert compare(replace(plan, references=()))[-1].overlap is None
    assert compare(plan)[-1].overlap is not None


def test_one_name_for_two_strategies_is_refused_by_name(plan: Comparison, tmp_path: Path) -> None:
    compare(plan)
    other = replace(plan, out=tmp_path / "other", settings=("lima.min_characters=5",))
    same = replace(plan, out=tmp_path / "same", keep=("6",))
    compare(same)
    compare(other)
    leaderboard([*read_cells(plan.out), *read_cells(same.out)])
    with pytest.raises(FolderError, match=r"two strategies 'lima': .*min_characters was \d+ and is 5"):
        leaderboard([*read_cells(plan.out), *read_cells(other.out)])


@pytest.mark.parametrize("name", ["random", "longest", "full"])
def test_a_strategy_of_a_references_name_is_refused(
    plan: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"is called {name}: that is a reference's name"):
        compare(replace(plan, strategies=(half(name),)))


def test_a_result_of_another_cell_is_in_no_table(plan: Comparison) -> None:
    compare(plan)
    mine, other = (
        plan.out / "cells" / f"{name}-8-seed0" / "results" / "near.json" for name in ("lima", "random")
    )
    right = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    with pytest.raises(FolderError, match="is the result of another cell"):
        read_cells(plan.out)
    compare(plan)
    assert mine.read_bytes() == right


def test_force_removes_what_was_made_here_and_nothing_else(plan: Comparison) -> None:
    compare(plan)
    mine = [plan.out / name for name in ("cells/mine/a", "cells/notes.txt", "selections/other/b", "mine.md")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    compare(replace(plan, recipe="other", force=True))
    assert all(file.exists() for file in mine)
    assert len(read_cells(plan.out)) == 2


def test_a_remedy_helps_and_a_file_that_is_gone_is_said(
    plan: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.json").write_text(json.dumps(["sample-00"]))
    asked = Request(str(plan.data), "given", "8", settings=("given.file='ids.json'",), out=tmp_path / "run")
    folder = run(asked)
    with (folder / "strategy.toml").open("a") as file:
        file.write("# mine")
    with pytest.raises(FolderError, match="with --force"):
        read_manifest(folder)
    run(replace(asked, force=True))
    Path("ids.json").unlink()
    with pytest.raises(FolderError, match="is not there any more"):
        run(asked)


@pytest.mark.parametrize(
    "change",
    [{"recipe": "other"}, pytest.param({"settings": ("lima.min_characters=2",)}, marks=pytest.mark.slow)],
)
def test_force_leaves_folders_alone_whose_names_or_files_only_look_like_ours(
    plan: Comparison, change: dict[str, Any]
) -> None:
    plan = replace(plan, settings=("lima.min_characters=1",), keep=("8", "12"))
    compare(plan)
    mine = [plan.out / "cells" / name for name in ("cfg/identity.json", "lima-12-seedling/job.json",
            "lima-12-seed/notes", "lima-12-seed1x/cell.json.bak", "cfg-1-seedx/identity.json")]  # fmt: skip
    for file in mine:
        file.parent.mkdir()
        file.write_text("{}")
    compare(replace(plan, keep=("8",), force=True, **change))
    assert all(file.exists() for file in mine)
    assert not (plan.out / "cells" / "lima-12-seed0").exists()  # which is of other settings


@pytest.mark.parametrize("change", [{"recipe": "other"}, {"settings": ("lima.min_characters=300",)}])
@pytest.mark.parametrize("kind", ["cells", pytest.param("selections", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["lima-8-seed0", pytest.param("lima-12-seed0", marks=pytest.mark.slow)])
def test_force_unlinks_a_link_and_spares_what_it_leads_to(
    plan: Comparison, tmp_path: Path, change: dict[str, Any], kind: str, name: str
) -> None:
    compare(replace(plan, settings=("lima.min_characters=1",), keep=("8", "12")))
    link, there = plan.out / kind / name, tmp_path / "elsewhere"
    link.rename(there)
    link.symlink_to(there)
    before = files_of(there)
    cells = compare(replace(plan, force=True, **{"settings": ("lima.min_characters=1",), **change}))
    assert {cell.failed for cell in cells} == {""}
    assert files_of(there) == before
    assert not link.is_symlink()


def test_a_folder_of_the_user_s_that_has_a_cell_s_name_is_refused(
    tmp_path: Path, in_process: None, cheap: Any
) -> None:
    compare(cheap(tmp_path))
    mine = tmp_path / "out" / "cells" / "lima-8-seed1"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    with pytest.raises(FolderError, match="lima-8-seed1 exists and is no cell of a comparison; move it away"):
        compare(replace(cheap(tmp_path), seeds=2))
    assert (mine / "notes.txt").read_text() == "precious"


# What --force removes


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], int]:
    return lambda: len((tmp_path / "calls").read_text().split())


def test_another_margin_trains_and_evaluates_nothing(plan: Comparison, calls: Callable[[], int]) -> None:
    compare(replace(plan, margin=0.1))
    before = files_of(plan.out).items()
    heard = Heard()
    compare(replace(plan, margin=0.5, force=True), heard)
    made = {(name, text) for name, text in before if "results" in name or "model" in name}
    assert made <= files_of(plan.out).items()
    assert calls() == 2
    assert "--force keeps all 2 cells (margin was 0.1 and is 0.5)" in " ".join(heard.lines)
    assert recorded_margin([plan.out]) == 0.5
    assert chosen_late([plan.out])
    compare(replace(plan, margin=0.5))  # it is the comparison's own
    words = ["leaderboard", str(plan.out)]
    assert "Margin chosen after there were results: 0.5" in CliRunner().invoke(main, words).output


def test_another_evaluation_trains_nothing_and_measures_what_is_new(plan: Comparison) -> None:
    compare(replace(plan, seeds=2))
    before = files_of(plan.out / "cells")
    heard = Heard()
    both = (*plan.evals, f"{PARTS}:Near,target=3")
    compare(replace(plan, evals=both, force=True), heard)
    assert "--force keeps 4 trained cells, which are evaluated again" in " ".join(heard.lines)
    assert {(cell.seed, *sorted(cell.results)) for cell in read_cells(plan.out)} == {(0, "near", "near2")}
    compare(replace(plan, evals=both, seeds=2))
    assert len(read_cells(plan.out)) == 4
    after = files_of(plan.out / "cells")
    kept = [name for name in before if name.endswith(("identity.json", "weights.json", "near.json"))]
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


def test_what_force_removes_is_counted(plan: Comparison) -> None:
    compare(plan)
    heard = Heard()
    compare(replace(plan, recipe="other", force=True), heard)
    assert "--force removes 2 cells and 2 selections (trainer" in " ".join(heard.lines)


def test_what_the_user_put_beside_or_into_a_cell_is_kept_and_said(plan: Comparison) -> None:
    compare(plan)
    cell, selection = (plan.out / kind / "lima-8-seed0" for kind in ("cells", "selections"))
    for folder in (cell, selection):
        shutil.copytree(folder, folder.with_name("my-copy"))
    (cell / "notes.txt").write_text("precious")
    (cell / "results" / "mine.json").write_text("[]")
    (cell / "identity.json").write_text("{}")
    heard = Heard()
    compare(plan, heard)
    assert "notes.txt, results in" in " ".join(heard.lines)
    kept = cell.with_name("lima-8-seed0-kept")
    assert files_of(kept) == {"notes.txt": b"precious", "results/mine.json": b"[]"}
    compare(replace(plan, recipe="other", force=True))
    for folder in (cell, selection):
        assert files_of(folder.with_name("my-copy"))
    assert files_of(kept)


@pytest.mark.parametrize("name", ["pool.jsonl", "heldout.jsonl"])
def test_a_file_of_the_users_is_not_written_over(plan: Comparison, name: str) -> None:
    compare(plan)
    (plan.out / name).write_text("precious")
    shared = replace(plan, evals=(*plan.evals, "heldout:20%"), force=True)
    before = files_of(plan.out)
    for _ in range(2):
        with pytest.raises(FolderError, match=f"{name} in .* was not written by the comparison"):
            prepare(shared, Silent())
        assert files_of(plan.out) == before
    (plan.out / name).unlink()
    prepare(shared, Silent())
    assert len(files_of(plan.out)["pool.jsonl"]) > 1000
    (plan.out / "left_out.jsonl").write_text("precious")
    prepare(replace(plan, force=True), Silent())  # no share: what was set aside goes, and nothing else
    assert {"pool.jsonl", "heldout.jsonl", "split.json"}.isdisjoint(files_of(plan.out))
    assert (plan.out / "left_out.jsonl").read_text() == "precious"
