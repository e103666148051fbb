"""One cell of a comparison in a process of its own: train, then evaluate.

    python -m dfilter.worker CELL [FILE.py ...]

reads CELL/job.json and leaves CELL/model, CELL/results/NAME.json, and CELL/timings.json with the seconds
that each took. Code is loaded from the named files alone, whatever the job says. What is finished is not
done again: the trainer continues from its last checkpoint, an evaluation that has the result of the
asked-for identity is skipped.
"""

from __future__ import annotations

import json
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
from dfilter.plaintext import guard_reports, say_error
from dfilter.store.disk import write_json
from dfilter.types import Duel, Evaluator, Trainer

TIMINGS = "timings.json"
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
        if result_identity(place) == entry["identity"]:
            continue
        evaluator: Evaluator = registry.create("evaluators", entry["kind"], entry["settings"])
        if isinstance(evaluator, Duel) and evaluator.needs:
            evaluator = evaluator.versus(Path(job["opponents"][evaluator.needs]))
        found = _timed(took, f"evaluate {name}", partial(evaluator.evaluate, model, seed=job["seed"]))
        write_result(place, found, entry["identity"])
    write_json(cell / TIMINGS, took)


def _timed(took: dict[str, float], name: str, step: Callable[[], T]) -> T:
    started = time.monotonic()
    made = step()
    took[name] = round(time.monotonic() - started, 3)
    return made


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
        registry.allow_code(*sys.argv[2:])
        work(Path(sys.argv[1]))
    except DFilterError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
