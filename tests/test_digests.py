"""Digests say what is in a file, whatever it is called, and notice every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfilter import digests
from dfilter.digests import by_state, file_sha256, folder_sha256, path_sha256
from dfilter.errors import InputError


def test_a_settled_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def text(path: Path) -> str:
        reads.append(path.name)
        return path.read_text()

    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    looked = by_state(text)
    (tmp_path / "a").write_text("one")
    assert looked(tmp_path / "a") == looked(tmp_path / "a") == "one"
    assert reads == ["a"]
    (tmp_path / "a").write_text("three")
    assert looked(tmp_path / "a") == "three"


def test_a_file_that_was_just_written_is_read_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = file_sha256(tmp_path / "a")
    (tmp_path / "a").write_text("two")  # the same size, and perhaps the same tick of the clock
    assert file_sha256(tmp_path / "a") != before


def test_a_folder_is_its_files_names_and_contents_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a.json").write_text("1")
        (tmp_path / name / ".scratch").write_text(name)
    one, other = tmp_path / "one", tmp_path / "other"
    assert folder_sha256(one) == folder_sha256(other) == path_sha256(one)
    (other / "in" / "a.json").rename(other / "in" / "b.json")
    assert folder_sha256(one) != folder_sha256(other)
    assert folder_sha256(one, lambda file: file.suffix == ".txt") == folder_sha256(other, lambda _: False)


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        path_sha256(tmp_path / "absent")
