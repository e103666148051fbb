"""Files that are written beside their place: what killed processes left there goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dfilter.store.disk import write_text


@pytest.mark.parametrize("name", ["a.json", "odd [1]*.json"])
def test_the_next_write_removes_what_a_killed_one_left(name: str, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".{name}.{gone.pid}"
    alive, other = tmp_path / f".{name}.{os.getppid()}", tmp_path / f".b{name}.{gone.pid}"
    for path in (left, alive, other):
        path.touch()
    write_text(tmp_path / name, "whole")
    assert {path.name for path in tmp_path.iterdir()} == {name, alive.name, other.name}
    assert (tmp_path / name).read_text() == "whole"
