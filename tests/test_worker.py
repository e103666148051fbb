"""A cell's worker: it ends with its comparison, and never works beside another one of its cell."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dfilter.comparison import Comparison
from dfilter.store.disk import claim

PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap: Callable[..., Comparison]) -> Comparison:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return cheap(tmp_path, references=())


@pytest.mark.kills
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the second worker waits")
def test_a_worker_ends_with_the_comparison_that_started_it(plan: Comparison) -> None:
    words = [sys.executable, "-m", "dfilter.cli", "compare", str(plan.data), "-s", "longest", "--keep", "8",
             "--seeds", "1", "--model", "words", "--recipe", "none", "--eval", *map(str, plan.evals),
             "--no-random", "--no-full", "-o", str(plan.out), "--trainer", plan.trainer,
             "--train", "seconds=60"]  # fmt: skip
    parent = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until((plan.out.parent / "calls").exists, 120)  # a worker is training
        workers = [pid for pid, line in _commands() if "dfilter.worker" in line and str(plan.out) in line]
        assert len(workers) == 1
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not any(pid in workers for pid, _ in _commands()), 2)


def _until(found: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def _commands() -> list[tuple[str, str]]:
    """The processes that live, with their words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((folder.name, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return [(pid, words) for pid, words in found if words]  # one that waits to be reaped has none


def test_a_second_worker_of_a_cell_waits_for_the_first(plan: Comparison) -> None:
    cell = plan.out / "cell"
    cell.mkdir(parents=True)
    job: dict[str, object] = {
        "rows": plan.data,
        "seed": 0,
        "trainer": plan.trainer,
        "train": {},
        "evaluations": {},
    }
    (cell / "job.json").write_text(json.dumps({**job, "evaluations": {}}))
    words = [sys.executable, "-m", "dfilter.worker", str(cell), str(PARTS)]
    with claim(cell / ".claim", wait=False) as mine:
        assert mine
        second = subprocess.Popen(words)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)  # it starts in a quarter of a second
        assert not (cell / "model").exists()
    assert second.wait(120) == 0
    assert (cell / "model").exists()


def test_a_worker_whose_parent_is_gone_already_does_nothing(plan: Comparison) -> None:
    words = [sys.executable, "-m", "dfilter.worker", "--child-of=1", str(plan.out), str(PARTS)]
    assert subprocess.run(words, check=False).returncode == 137
    assert not plan.out.exists()
