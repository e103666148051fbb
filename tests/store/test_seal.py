"""A sealed folder is whole, or what is wrong with it is said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dfilter import digests
from dfilter.store.seal import flaw, read_checked, seal, write_checked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "folder"
    (place / "deep" / "er").mkdir(parents=True)
    for name, text in {
        "a": "one",
        "deep/b": "two",
        "deep/er/c": "three",
        ".scratch": "x",
        "empty": "",
    }.items():
        (place / name).write_text(text)
    seal(place, "ours")
    return place


def swapped(folder: Path) -> None:
    (folder / "a").rename(folder / "x")
    (folder / "deep/b").rename(folder / "a")
    (folder / "x").rename(folder / "deep/b")


def test_a_sealed_folder_is_whole_and_scratch_is_no_part_of_it(folder: Path) -> None:
    assert flaw(folder, "ours") == ""
    (folder / ".scratch").unlink()
    (folder / "deep" / ".more").write_text("y")
    assert flaw(folder, "ours") == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "deep/b").unlink(), "deep/b is missing"),
        (lambda f: (f / "a").write_text("ones"), "a has another size"),
        (lambda f: (f / "deep/er/c").write_text("threE"), "deep/er/c has another content"),
        (lambda f: (f / "seal.json").unlink(), "seal.json is missing"),
        (lambda f: (f / "seal.json").write_text(""), "seal.json is damaged"),
        (lambda f: seal(f, "theirs"), "seal.json is of format 1 for theirs"),
        (swapped, "a has another content"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(folder: Path, damage: object, said: str) -> None:
    damage(folder)  # type: ignore[operator]
    assert flaw(folder, "ours") == said


def test_any_flipped_bit_of_the_seal_is_noticed(folder: Path) -> None:
    whole = (folder / "seal.json").read_bytes()
    for at in range(len(whole)):
        (folder / "seal.json").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert flaw(folder, "ours"), at
    (folder / "seal.json").write_bytes(whole)
    assert flaw(folder, "ours") == ""


def test_a_seal_may_have_another_name_and_is_no_part_of_itself(folder: Path) -> None:
    seal(folder, "again", into="done")
    before = (folder / "done").read_bytes()
    seal(folder, "again", into="done")
    assert (folder / "done").read_bytes() == before
    assert flaw(folder, "again", into="done") == ""
    assert "seal.json" in (read_checked(folder / "done") or {})["files"]


def test_a_file_that_was_just_written_is_read_every_time(folder: Path) -> None:
    assert flaw(folder, "ours") == ""
    stat = (folder / "a").stat()
    with (folder / "a").open("r+") as file:
        file.write("owe")
    os.utime(folder / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert time.time_ns() - stat.st_mtime_ns < digests.SETTLED_NS
    assert flaw(folder, "ours") == "a has another content"


def test_checked_json_is_what_was_written_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_checked(path) is None
    value = {"a": [1, {"b": "ü"}], "c": 1.5}
    write_checked(path, value)
    assert read_checked(path) == value
    path.write_text(path.read_text().replace("1.5", "1.6"))
    assert read_checked(path) is None
    for text in ("", "[]", "3", '{"checksum": 1}', "\0\0"):
        path.write_text(text)
        assert read_checked(path) is None
