"""A real package of a third party: built, installed, found, listed, checked and run by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package is installed, built from a copy so that nothing is left here."""
    copy = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--no-build-isolation", "--no-index", "--target", str(target), str(copy)),
        ],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture
def call(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("PYTHONPATH", str(installed))

    def called(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dfilter.cli", *args]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ)
        )

    return called


def test_the_plugin_is_listed_and_its_broken_part_is_named_in_a_warning(call) -> None:
    done = call("filters")
    assert done.returncode == 0
    listed = {line.split("\t")[0]: line.split("\t") for line in done.stdout.splitlines()}
    assert listed["questions"][1:] == ["Prefer responses that ask back.", "", "most=3, mark='?'"]
    assert {"random", "longest", "kcenter"} <= set(listed)
    assert "questions-broken" not in listed
    assert "Warning: Plugin 'questions-broken'" in done.stderr
    assert "a_package_that_nobody_has" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plugin_runs_and_is_named_in_the_run_folder(call, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": "Really" + "?" * (i % 5)} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = call(
        "run", "rows.jsonl", "--strategy", "questions", "--keep", "8", "--set", "filter.most=4", "-o", "out"
    )
    assert done.returncode == 0, done.stderr
    kept = [
        json.loads(line)["prompt"] for line in (tmp_path / "out" / "selected.jsonl").read_text().splitlines()
    ]
    assert kept == ["p3", "p4", "p8", "p9", "p13", "p14", "p18", "p19"]
    assert "asks 4 times" in call("show", "out", "-n", "1").stdout
    again = call("run", "--strategy", "out/strategy.toml", "-o", "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "selected.jsonl").read_bytes() == (
        tmp_path / "out" / "selected.jsonl"
    ).read_bytes()


def test_the_plugin_passes_the_contract(call) -> None:
    done = call("check", "questions")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("passed") >= 8


def test_asking_for_the_broken_part_is_a_sentence(call) -> None:
    done = call("check", "questions-broken")
    assert done.returncode == 2
    assert "cannot be imported: No module named 'a_package_that_nobody_has'" in done.stderr
    assert "Traceback" not in done.stderr
