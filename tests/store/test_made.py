"""A folder that can be made again is, when it is damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dfilter.store.made import ensure


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("text")


def test_it_is_filled_once(tmp_path: Path) -> None:
    filled: list[Path] = []
    for _ in range(2):
        assert ensure(tmp_path / "a", lambda f: (fill(f), filled.append(f)), pytest.fail) == tmp_path / "a"
    assert len(filled) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def another(folder: Path) -> None:
    other = ensure(folder.with_name("b"), fill, pytest.fail)
    (other / "seal.json").replace(folder / "seal.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "deep/file").write_text("texT"), "deep/file has another content"),
        (lambda f: (f / "deep/file").unlink(), "deep/file is missing"),
        (lambda f: (f / "seal.json").unlink(), "seal.json is missing"),
        (another, "is of format 1 for b"),
    ],
)
def test_a_damaged_one_is_made_again_with_a_line(tmp_path: Path, damage: object, said: str) -> None:
    place = ensure(tmp_path / "a", fill, pytest.fail)
    damage(place)  # type: ignore[operator]
    lines: list[str] = []
    assert (ensure(place, fill, lines.append) / "deep" / "file").read_text() == "text"
    assert len(lines) == 1
    assert said in lines[0]
    ensure(place, fill, pytest.fail)


def test_one_of_two_makes_it_and_the_other_waits(tmp_path: Path) -> None:
    ensure(tmp_path / "a", fill, pytest.fail)
    (tmp_path / "a" / "deep" / "file").write_text("x")
    meeting, filled, lines = threading.Barrier(2), [], []

    def work() -> None:
        meeting.wait()
        ensure(tmp_path / "a", lambda f: (fill(f), filled.append(f)), lines.append)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == len(lines) == 1


def test_a_killed_making_leaves_nothing_and_the_next_clears_its_scratch(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path / "a", killed, pytest.fail)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".a-killed").mkdir()
    ensure(tmp_path / "a", fill, pytest.fail)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
