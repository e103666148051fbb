"""A fit is computed once for its rows and settings; a longer one serves a shorter wish; kills cost little."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dfilter import Pool
from dfilter.pool import Store, read_spec
from dfilter.progress import Silent
from dfilter.store import notices


@pytest.fixture
def fit(counting: ModuleType, tmp_path: Path) -> Any:
    """Ask for squares of rows; return the folder and the numbers that had to be computed for it."""
    log = tmp_path / "log"

    def asked(length: int, rows: Any = None, fails_at: int = -1) -> tuple[Path, list[int]]:
        before = len(counting.noted(log))
        pool = Pool(counting.dataset(20) if rows is None else rows, store=Store(tmp_path / "store"))
        folder = pool.fit(counting.Squares(str(log), fails_at=fails_at), length=length)
        return folder, counting.noted(log)[before:]

    return asked


def squares(folder: Path) -> list[int]:
    return sorted(int(np.load(file)) for file in folder.glob("*.npy"))


def test_a_fit_is_computed_once(fit: Any) -> None:
    folder, computed = fit(3)
    assert (squares(folder), computed) == ([0, 1, 4], [0, 1, 2])
    assert fit(3) == (folder, [])


def test_a_longer_fit_serves_a_shorter_wish_and_a_shorter_one_is_continued(fit: Any) -> None:
    fit(3)
    folder, computed = fit(5)
    assert (squares(folder), computed) == ([0, 1, 4, 9, 16], [3, 4])
    shorter, computed = fit(4)
    assert (shorter, computed) == (folder, [])
    assert fit(2)[0].name == "length-3"  # the shortest that is long enough


def test_rows_in_another_order_share_a_fit_and_other_rows_do_not(counting: ModuleType, fit: Any) -> None:
    rows = counting.dataset(20)
    folder, _ = fit(3, rows)
    assert fit(3, rows.take(np.arange(19, -1, -1)))[0] == folder
    for other in (rows.take(range(19)), counting.dataset(21), counting.dataset(20, copies=1)):
        assert fit(3, other)[0].parent != folder.parent


def test_a_fit_without_a_length_has_length_zero(fit: Any) -> None:
    folder, _ = fit(0)
    assert folder.name == "length-0"
    assert folder.is_dir()


def test_what_a_failed_fit_had_written_is_there_when_it_is_tried_again(fit: Any) -> None:
    with pytest.raises(RuntimeError, match="out of squares"):
        fit(5, fails_at=3)
    folder, computed = fit(5)
    assert (squares(folder), computed) == ([0, 1, 4, 9, 16], [3, 4])


def test_the_settings_and_rows_are_beside_the_fit(fit: Any) -> None:
    folder, _ = fit(1)
    spec = read_spec(folder.parent)
    assert spec["kind"].startswith("squares@")  # it has no registered name, so its file is its name
    assert spec["version"] == 1
    assert len(spec["spec"]["rows"]) == 16


def test_what_was_fitted_and_found_is_counted(counting: ModuleType, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):
        Pool(counting.dataset(20), store=store).fit(counting.Squares(str(tmp_path / "log")), length=2)
    assert [(e["stored"], e["computed"]) for e in store.log] == [(0, 20), (20, 0)]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store says."""
    lines: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda _, line: lines.append(line))
    monkeypatch.setattr(notices, "_looked", set())
    return lines


def flip(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("1.npy", flip, "1.npy has another content"),
        ("2.npy", lambda file: file.write_bytes(b""), "2.npy has another size"),
        ("0.npy", Path.unlink, "0.npy is missing"),
        ("0.npy", lambda file: file.with_name("1.npy").replace(file), "0.npy has another content"),
        ("seal.json", flip, "seal.json is damaged"),
        ("seal.json", Path.unlink, "seal.json is missing"),
    ],
)  # fmt: skip
def test_a_damaged_fit_is_removed_with_one_line_and_computed_again(
    fit: Any, digest: Any, said: list[str], name: str, damage: Any, why: str
) -> None:
    fit(3)
    folder, _ = fit(5)
    before = digest(folder.parent.parent)
    damage(folder / name)
    assert fit(4) == (folder.with_name("length-4"), [3])  # the shorter one is whole and continued
    assert said == [f"The stored fit {folder.parent.name}/length-5 is damaged ({why}); it is computed again."]
    assert fit(5) == (folder, [4])
    shutil.rmtree(folder.with_name("length-4"))
    assert digest(folder.parent.parent) == before
    assert len(said) == 1


def test_a_damaged_shorter_fit_is_not_continued(fit: Any, said: list[str]) -> None:
    folder, _ = fit(3)
    flip(folder / "2.npy")
    folder, computed = fit(5)
    assert (squares(folder), computed) == ([0, 1, 4, 9, 16], [0, 1, 2, 3, 4])
    assert len(said) == 1


def test_a_fit_that_changed_places_with_another_is_computed_again(
    counting: ModuleType, fit: Any, digest: Any, said: list[str]
) -> None:
    mine, _ = fit(3)
    theirs, _ = fit(3, counting.dataset(21))
    before = digest(mine.parent.parent)
    mine.rename(mine.with_name("x"))
    theirs.rename(mine)
    mine.with_name("x").rename(theirs)
    fit(3)
    fit(3, counting.dataset(21))
    assert digest(mine.parent.parent) == before
    assert [line.rpartition("(")[0] for line in said] == [
        f"The stored fit {folder.parent.name}/length-3 is damaged " for folder in (mine, theirs)
    ]


def test_a_damaged_spec_is_written_anew(fit: Any, digest: Any) -> None:
    folder, _ = fit(3)
    before = digest(folder.parent)
    for damage in (flip, Path.unlink):
        damage(folder.parent / "spec.json")
        assert fit(3) == (folder, [])
        assert digest(folder.parent) == before


def test_fits_of_an_earlier_version_are_ignored_with_one_sentence(
    fit: Any, said: list[str], tmp_path: Path
) -> None:
    folder, _ = fit(3)
    said.clear()
    old = folder.parent.with_name("squares-0123456789abcdef")
    old.mkdir()
    (old / "spec.json").write_text('{"class": "Squares", "spec": {}}')
    notices._looked.clear()
    assert fit(4)[1] == [3]
    assert fit(5)[1] == [4]
    (line,) = said
    assert line.startswith("Fits of an earlier version in ")
    assert "`dfilter cache remove squares-0123456789abcdef`" in line


def test_what_killed_processes_left_is_cleared_but_longer_work_stays(fit: Any) -> None:
    folder, _ = fit(1)
    for length in (2, 9):
        (folder.parent / f".part-{length}").mkdir()
        (folder.parent / f".part-{length}" / "some").touch()
    (folder.parent / ".claim").touch()
    process = subprocess.Popen(["true"])
    process.wait()
    (folder.parent / f".spec.json.{process.pid}").touch()
    fit(3)
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == [".part-9"]


@pytest.mark.serial
def test_a_second_process_waits_for_the_first(
    counting: ModuleType, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path))
    both = [start("fit", 20, 0.1, tmp_path / "log", 10) for _ in range(2)]
    out = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    assert counting.noted(tmp_path / "log") == list(range(10))
    assert out[0][0] == out[1][0]
    assert squares(Path(out[0][0].decode())) == [n**2 for n in range(10)]


@pytest.mark.kills
def test_a_killed_fit_continues_from_its_scratch_and_ends_with_the_same_bytes(
    counting: ModuleType, digest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    def command(log: Path) -> list[str]:
        return [sys.executable, counting.__file__, "fit", "20", "0", str(log), "12"]

    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "calm"))
    changes = dying.whole(command(tmp_path / "calm.log"))
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "killed"))
    log = tmp_path / "log"
    dying.killed(command(log), changes, 2)
    dying.whole(command(log))
    assert digest(tmp_path / "killed") == digest(tmp_path / "calm")
    assert len(counting.noted(log)) <= 12 + 2  # a kill costs one step
