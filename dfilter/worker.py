"""One cell of a comparison in a process of its own: train, then evaluate.

    python -m dfilter.worker [--child-of=PID] CELL [FILE.py ...]

reads CELL/job.json and leaves CELL/model, CELL/results/NAME.json, and CELL/timings.json with the seconds
that each took. Code is loaded from the named files alone, whatever the job says. What is finished is not
done again: the trainer continues from its last checkpoint, an evaluation that has the result of the
asked-for identity is skipped, unless its judges are to be asked again. It ends with the process of that
id, however that ends, and a second worker of a cell waits for the first: else a comparison that was killed
would write into the one after it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dfilter import registry
from dfilter.data import load
from dfilter.errors import DFilterError
from dfilter.leaderboard.cells import RESULTS, result_identity, write_result
from dfilter.llm.budget import Terms, spending
from dfilter.plaintext import guard_reports, say_error
from dfilter.store.disk import claim, write_json
from dfilter.types import Duel, Evaluator, Trainer

TIMINGS = "timings.json"
CHILD_OF = "--child-of="
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that we get when our parent is gone
T = TypeVar("T")


def work(cell: Path) -> None:
    """Train and evaluate what ``job.json`` asks for.

    Raises:
        DFilterError: the trainer or an evaluator refused.
    """
    job = json.loads((cell / "job.json").read_text(encoding="utf-8"))
    trainer: Trainer = registry.create("trainers", job["trainer"], job["train"])
    took: dict[str, float] = {}
    model = _timed(took, "train", lambda: trainer.train(load(job["rows"]), cell / "model", seed=job["seed"]))
    for name, entry in job["evaluations"].items():
        place = cell / RESULTS / f"{name}.json"
        if result_identity(place) == entry["identity"] and not entry.get("anew"):
            continue
        evaluator: Evaluator = registry.create("evaluators", entry["kind"], entry["settings"])
        if isinstance(evaluator, Duel) and evaluator.needs:
            evaluator = evaluator.versus(Path(job["opponents"][evaluator.needs]))
        with spending(Terms(**job["spending"])):
            found = _timed(took, f"evaluate {name}", partial(evaluator.evaluate, model, seed=job["seed"]))
        write_result(place, found, entry["identity"])
    write_json(cell / TIMINGS, took)


def _timed(took: dict[str, float], name: str, step: Callable[[], T]) -> T:
    started = time.monotonic()
    made = step()
    took[name] = round(time.monotonic() - started, 3)
    return made


def _end_with(parent: int) -> None:
    """Die with the process that started us: what it is not there to see would be written for nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        sys.exit(128 + signal.SIGKILL)


def _stop_once(*_: Any) -> None:
    """Stop at the first request; a terminal's Ctrl-C comes twice, from the terminal and from the parent."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _stop_once)
    try:
        guard_reports()  # a terminal shows log.txt, and its last line as the reason of a failure
        words = sys.argv[1:]
        if words[0].startswith(CHILD_OF):
            _end_with(int(words.pop(0).removeprefix(CHILD_OF)))
        registry.allow_code(*words[1:])
        with claim(Path(words[0]) / ".claim", wait=True):
            work(Path(words[0]))
    except DFilterError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
