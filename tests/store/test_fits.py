"""A fit is computed once for its rows and settings; a longer one serves a shorter wish; kills cost little."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dfilter import Pool
from dfilter.pool import Store, read_spec


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
    assert fit(2)[0].name == "3"  # the shortest that is long enough


def test_rows_in_another_order_share_a_fit_and_other_rows_do_not(counting: ModuleType, fit: Any) -> None:
    rows = counting.dataset(20)
    folder, _ = fit(3, rows)
    assert fit(3, rows.take(np.arange(19, -1, -1)))[0] == folder
    for other in (rows.take(range(19)), counting.dataset(21), counting.dataset(20, copies=1)):
        assert fit(3, other)[0].parent != folder.parent


def test_a_fit_without_a_length_has_length_zero(fit: Any) -> None:
    folder, _ = fit(0)
    assert folder.name == "0"
    assert folder.is_dir()


def test_what_a_failed_fit_had_written_is_there_when_it_is_tried_again(fit: Any) -> None:
    with pytest.raises(RuntimeError, match="out of squares"):
        fit(5, fails_at=3)
    folder, computed = fit(5)
    assert (squares(folder), computed) == ([0, 1, 4, 9, 16], [3, 4])


def test_the_settings_and_rows_are_beside_the_fit(fit: Any) -> None:
    folder, _ = fit(1)
    spec = read_spec(folder.parent)
    assert spec["class"] == "Squares"
    assert len(spec["spec"]["rows"]) == 16


def test_what_was_fitted_and_found_is_counted(counting: ModuleType, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):
        Pool(counting.dataset(20), store=store).fit(counting.Squares(str(tmp_path / "log")), length=2)
    assert [(e["stored"], e["computed"]) for e in store.log] == [(0, 20), (20, 0)]


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


@pytest.mark.serial
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
