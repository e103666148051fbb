"""One training in processes of its own.

    python -m dfilter.train JOB.json
    torchrun --nproc-per-node 8 -m dfilter.train JOB.json
    accelerate launch -m dfilter.train JOB.json

JOB.json holds ``train`` (settings of :class:`~dfilter.train.trainer.FineTune`), ``rows`` (a data file),
``out`` and ``seed``; ``reading`` where the file's shape is not to be guessed (``format`` and ``mapping``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dfilter.data import load
from dfilter.errors import DFilterError, SettingsError
from dfilter.plaintext import guard_reports, say_error
from dfilter.settings import build
from dfilter.train.trainer import FineTune


def main(arguments: list[str]) -> None:
    """Train what a job file asks for.

    Raises:
        DFilterError: the job, its rows or its settings are wrong.
    """
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        raise SettingsError("Name one job file: python -m dfilter.train JOB.json")
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    trainer: FineTune = build(FineTune, job.get("train", {}), "train")
    trainer.train(load(job["rows"], **job.get("reading", {})), Path(job["out"]), seed=int(job.get("seed", 0)))


if __name__ == "__main__":
    try:
        guard_reports()
        main(sys.argv[1:])
    except DFilterError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
