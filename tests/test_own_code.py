"""What is imported of the user's own is what was hashed, and is found wherever the code is started."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dfilter import registry
from dfilter.cli import main
from dfilter.errors import SettingsError
from dfilter.own_code import code_sha256

FILTER = """
from dataclasses import dataclass
import numpy as np
from dfilter import Scores
from ladder import SIGN

@dataclass(frozen=True)
class Mine:
    model: str = ""
    recipe: str = ""
    source: str = ""
    def score(self, pool):
        from rungs.late import FACTOR
        return Scores(np.array([SIGN * FACTOR * len(row.response) for row in pool.rows], np.float64))
    def train(self, rows, out, *, seed):
        from rungs.late import FACTOR
        out.mkdir(parents=True)
        (out / "training.json").write_text('{"trained_tokens": %d, "seconds": 1.0}' % (10 * SIGN * FACTOR))
        return out
    def evaluate(self, model, *, seed=0):
        from dfilter.types import EvalResult
        return EvalResult(["a", "b"], np.array([0.0, 1.0]), "metric", True)
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code of one's own that imports a module, and a package without __init__ later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {"", str(tmp_path)}])
    folder = tmp_path / "code"
    (folder / "rungs").mkdir(parents=True)
    (folder / "mine.py").write_text(FILTER)
    (folder / "ladder.py").write_text("SIGN = +1\n")
    (folder / "rungs" / "late.py").write_text("FACTOR = 1\n")
    rows = [{"instruction": f"q{i}", "output": "so " * (i + 1)} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield folder
    for name in ("ladder", "rungs", "rungs.late"):
        sys.modules.pop(name, None)


def call(*words: str) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result


def kept(folder: str) -> list[str]:
    return [
        json.loads(line)["instruction"] for line in Path(folder, "selected.jsonl").read_text().splitlines()
    ]


def edit_unseen(file: Path, text: str) -> None:
    """Write as many bytes at the same second, with the bytecode of before beside them."""
    before = file.stat()
    py_compile.compile(str(file))
    assert len(text) == before.st_size
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("file", "text"), [("ladder.py", "SIGN = -1\n"), ("rungs/late.py", "FACTOR =-1\n")])
def test_old_bytecode_of_an_imported_module_is_not_what_runs(code: Path, file: str, text: str) -> None:
    words = ["run", "rows.jsonl", "-s", "code/mine.py:Mine", "-k", "2", "-o"]
    call(*words, "one")
    assert kept("one") == ["q10", "q11"]
    edit_unseen(code / file, text)
    call(*words, "two")
    assert kept("two") == ["q0", "q1"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_worker_imports_what_the_run_imports(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """From beside the code, or from where the command was started, when that was on the path."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    if not beside:
        for name in ("ladder.py", "rungs"):
            shutil.move(code / name, tmp_path / name)
        monkeypatch.syspath_prepend(str(tmp_path))
    edit_unseen((code if beside else tmp_path) / "rungs" / "late.py", "FACTOR =-1\n")
    alone = [f"--no-{name}" for name in ("full", "longest", "random")]
    trained = ["-m", "words", "--recipe", "none", "--trainer", "code/mine.py:Mine"]
    call("compare", "rows.jsonl", "-s", "code/mine.py:Mine", "-k", "2", "--seeds", "1", "-o", "out",
         "--eval", "code/mine.py:Mine", *alone, *trained)  # fmt: skip
    (cell,) = Path("out/cells").iterdir()
    assert json.loads((cell / "trained.json").read_text())["trained_tokens"] == -10
    assert kept("out/selections/mine-2-seed0") == ["q0", "q1"]


def test_names_and_contents_of_imported_files_count_and_their_place_does_not(
    code: Path, tmp_path: Path
) -> None:
    (code / "two.py").write_text("import ladder\nimport rungs.late\n")
    first = code_sha256(code / "two.py")
    shutil.copytree(code, tmp_path / "moved")
    assert code_sha256(tmp_path / "moved" / "two.py") == first
    one, other = code / "ladder.py", code / "rungs" / "late.py"
    text = one.read_text()
    one.write_text(other.read_text())
    other.write_text(text)
    assert code_sha256(code / "two.py") != first


def test_the_digest_is_the_same_before_and_after_the_code_is_loaded(code: Path) -> None:
    (code / "lib").mkdir()
    (code / "ladder.py").rename(code / "lib" / "ladder.py")
    path = "import sys, os\nsys.path.insert(0, os.path.dirname(__file__) + '/lib')\n"
    (code / "mine.py").write_text(path + FILTER)
    call("run", "rows.jsonl", "-s", "code/mine.py:Mine", "-k", "2", "-o", "one")
    assert "lib" in "".join(sys.path)
    call("run", "-s", "one/strategy.toml", "-o", "two", "--allow-code", "code/mine.py")
    sys.modules.pop("ladder")
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("lib")]
    call("run", "-s", "one/strategy.toml", "-o", "three", "--allow-code", "code/mine.py")
    assert kept("one") == kept("two") == kept("three")
    (code / "lib" / "ladder.py").write_text("SIGN = -1\n")
    call("run", "rows.jsonl", "-s", "code/mine.py:Mine", "-k", "2", "-o", "four")
    assert kept("four") == ["q0", "q1"]


def test_a_module_that_is_imported_unseen_is_warned_of(code: Path) -> None:
    (code / "elsewhere" / "deep").mkdir(parents=True)
    (code / "ladder.py").rename(code / "elsewhere" / "deep" / "ladder.py")
    path = "import sys, os\nsys.path.insert(0, os.path.dirname(__file__) + '/elsewhere/deep')\n"
    (code / "mine.py").write_text(path + FILTER)
    registry.allow_code("code/mine.py")
    with pytest.warns(UserWarning, match=r"deep/ladder\.py by names that it makes while it runs"):
        registry.load("filters", "code/mine.py:Mine")


def test_two_modules_of_one_name_are_refused(code: Path, tmp_path: Path) -> None:
    shutil.copytree(code, tmp_path / "other")
    registry.allow_code("code/mine.py", "other/mine.py")
    registry.load("filters", "code/mine.py:Mine")
    with pytest.raises(SettingsError, match=r"other/ladder\.py as 'ladder', and .*code/ladder\.py goes by"):
        registry.load("filters", "other/mine.py:Mine")
