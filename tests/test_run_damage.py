"""Whatever file of a run or a comparison is damaged: the same result, or a sentence; never another result."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from dfilter import sample
from dfilter.cli import main
from dfilter.compare import compare
from dfilter.comparison import Comparison, prepare
from dfilter.data import load
from dfilter.errors import DFilterError, FolderError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import read_cells
from dfilter.progress import Silent
from dfilter.run import Request, run
from dfilter.run_folder import read_manifest
from dfilter.summary import explain, shown_rows, summary

PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sample.write(folder, rows=60, seed=3)
    return folder / "pool.jsonl"


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One store for the module: it is the folders that are damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("CALLS", str(tmp_path_factory.mktemp("calls") / "calls"))
        yield


@pytest.fixture(scope="module")
def whole(pool: Path, tmp_path_factory: pytest.TempPathFactory, _home: None) -> Path:
    return run(Request(str(pool), "lima", "10", out=tmp_path_factory.mktemp("run") / "whole"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what must repeat: every file, the manifest without its timings."""
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    manifest = json.loads(found["manifest.json"])
    del manifest["timings"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


def made_again(request: Request) -> tuple[str, str]:
    """Run again; return how it ended, and what was said."""
    try:
        run(request)
    except DFilterError as error:
        return "refused", str(error)
    return "done", ""


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(30, 330), marks=pytest.mark.soak)])
@pytest.mark.parametrize("lost", [["done"], ["done", "manifest.json"], ["done", "selected.jsonl"], []])
def test_a_damaged_run_is_made_again_or_refused_in_a_sentence(
    damages: ModuleType, pool: Path, whole: Path, tmp_path: Path, numbers: range, lost: list[str]
) -> None:
    before = files_of(whole)
    refused = 0
    for number in numbers:
        out = Path(shutil.copytree(whole, tmp_path / str(number)))
        for name in lost:  # what a killed run has not written yet
            (out / name).unlink()
        damage = damages.drawn(out, number)
        damage.do(out)
        request = Request(str(pool), "lima", "10", out=out)
        end, said = made_again(request)
        if end == "refused":
            refused += 1
            assert "--force" in said, damage
            assert str(out) in said, damage
            end, said = made_again(replace(request, force=True))
        assert (end, files_of(out)) == ("done", before), (damage, said)
    assert refused < len(numbers) / 2  # most of them heal by themselves


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(30, 330), marks=pytest.mark.soak)])
def test_what_a_damaged_run_shows_is_what_was_written_or_a_sentence(
    damages: ModuleType, whole: Path, tmp_path: Path, numbers: range
) -> None:
    def told(folder: Path) -> list[Any]:
        row = next(iter(shown_rows(folder, "kept", 1)))
        manifest = read_manifest(folder)
        return [manifest, summary(folder).rpartition("Files:")[0], row, explain(folder, row["id"])]

    before = told(whole)
    for number in numbers:
        out = Path(shutil.copytree(whole, tmp_path / str(number)))
        damage = damages.drawn(out, number)
        damage.do(out)
        try:
            found = told(out)
        except DFilterError:
            continue
        assert found == before, damage


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, cheap: Callable[..., Comparison], _home: None
) -> tuple[Comparison, str]:
    plan = cheap(tmp_path_factory.mktemp("compared"), references=("random",))
    return plan, table(compare(plan))


def table(cells: Any) -> str:
    """The table without what differs between any two runs: seconds."""
    found = json.loads(leaderboard(cells).render("json"))
    return json.dumps(
        json.loads(
            json.dumps(found), object_hook=lambda d: {k: v for k, v in d.items() if "seconds" not in k}
        ),
        sort_keys=True,
    )


@pytest.mark.parametrize("numbers", [range(8), pytest.param(range(8, 108), marks=pytest.mark.soak)])
def test_a_damaged_comparison_has_the_same_table_or_is_refused_in_a_sentence(
    damages: ModuleType, compared: tuple[Comparison, str], tmp_path: Path, numbers: range
) -> None:
    plan, before = compared
    for number in numbers:
        out = Path(shutil.copytree(plan.out, tmp_path / str(number)))
        damage = damages.drawn(out, number)
        damage.do(out)
        again = replace(plan, out=out)
        try:
            found = table(compare(again))
        except DFilterError:
            found = table(compare(replace(again, force=True)))
        assert found == before, damage


def test_damaged_rows_that_were_set_aside_are_set_aside_again(
    damages: ModuleType, pool: Path, tmp_path: Path
) -> None:
    plan = Comparison(out=tmp_path / "out", data=str(pool), model="tiny", evals=("heldout:20%",))
    prepare(plan, Silent())
    before = {file.name: file.read_bytes() for file in plan.out.iterdir()}
    assert set(before) == {"protocol.json", "pool.jsonl", "heldout.jsonl", "split.json"}
    for number in range(30):
        damage = damages.drawn(plan.out, number)
        damage.do(plan.out)
        try:
            prepare(plan, Silent())
        except FolderError:
            prepare(replace(plan, force=True), Silent())
        assert {file.name: file.read_bytes() for file in plan.out.iterdir()} == before, damage


# What is no file, where a file belongs


@pytest.fixture
def _patience() -> Iterator[None]:
    """Nothing waits: a pipe that nobody writes into would be read for ever."""

    def over(*_: object) -> None:
        raise TimeoutError("Something waits.")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere/at/all")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


OTHERS = [pipe, dangling, a_folder]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.usefixtures("_patience")
def test_a_runs_file_that_is_none(
    pool: Path, whole: Path, tmp_path: Path, other: Callable[[Path], None]
) -> None:
    for number, name in enumerate(sorted(p.name for p in whole.iterdir())):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        other(folder / name)
        with contextlib.suppress(DFilterError):
            summary(folder)
            list(shown_rows(folder, "kept", 1))
        request = Request(str(pool), "lima", "10", out=folder)
        if made_again(request)[0] == "refused":
            continue
        assert files_of(folder) == files_of(whole), name


@pytest.mark.parametrize("other", [pipe, *(pytest.param(o, marks=pytest.mark.slow) for o in OTHERS[1:])])
@pytest.mark.usefixtures("_patience")
def test_a_comparisons_file_that_is_none(
    compared: tuple[Comparison, str], tmp_path: Path, other: Callable[[Path], None]
) -> None:
    plan, right = compared
    names = [
        p.relative_to(plan.out) for p in sorted(plan.out.rglob("*")) if p.is_file() and "model" not in p.parts
    ]
    # Every third file in the fast suite; the slow ones try all.
    for number, name in enumerate(names[::3] if other is pipe else names):
        folder = tmp_path / str(number)
        shutil.copytree(plan.out, folder)
        other(folder / name)
        with contextlib.suppress(DFilterError):
            read_cells(folder)
        with contextlib.suppress(DFilterError):
            assert table(compare(replace(plan, out=folder))) == right, name


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.usefixtures("_patience")
def test_an_opened_sources_file_that_is_none(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "home"))
    right = list(load(pool).ids)
    for name in [p.relative_to(tmp_path) for p in sorted((tmp_path / "home").rglob("*")) if p.is_file()]:
        other(tmp_path / name)
        try:
            assert list(load(pool).ids) == right, name
        except DFilterError:
            shutil.rmtree(tmp_path / "home")


def test_tables_are_written_beside_what_is_there(
    compared: tuple[Comparison, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = compared
    out = tmp_path / "out"
    shutil.copytree(plan.out, out)
    (tmp_path / "mine").write_text("mine")
    (out / "leaderboard.csv").symlink_to(tmp_path / "mine")
    (out / "leaderboard.md").mkdir()
    (out / "leaderboard.json").symlink_to("nowhere")
    command = ["compare", str(plan.data), "-s", "lima", "--keep", "8", "--seeds", "1", "--model", "words"]
    command += ["--recipe", "none", "--trainer", f"{PARTS}:Mean", "--eval", f"{PARTS}:Near", "-o", str(out)]
    result = CliRunner().invoke(main, [*command, "--no-longest", "--no-full"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mine").read_text() == "mine"
    assert all((out / f"leaderboard.{kind}").read_text() for kind in ("md", "csv", "json"))
    with monkeypatch.context() as patch:
        patch.setattr("dfilter.store.disk.sync", full)
        result = CliRunner().invoke(main, [*command, "--no-longest", "--no-full"])
    assert (result.exit_code, "is full" in result.output) == (2, True), result.output


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_cell_that_is_a_link_is_removed_and_not_what_it_leads_to(
    compared: tuple[Comparison, str], tmp_path: Path
) -> None:
    plan, right = compared
    out = tmp_path / "out"
    shutil.copytree(plan.out, out)
    (cell,) = (out / "cells").glob("lima-*")
    shutil.rmtree(cell)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    cell.symlink_to(tmp_path / "elsewhere")
    assert table(compare(replace(plan, out=out))) == right
    assert (tmp_path / "elsewhere" / "mine").exists()
