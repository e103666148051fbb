"""How long the main command takes: listing commands, a cold and a warm k-center run, eight strategies.

    DFILTER_TEST_DATA=... python benchmarks/run.py [--cold] [--eight]

Every figure is the wall time of a whole command in a process of its own. The warm run has the embedding
in the store and nothing else. ``--cold`` embeds first (minutes); ``--eight`` selects with eight
strategies twice, the second time with every signal stored, and then makes the leaderboard of eight
strategies with three seeds and 1,000 prompts each, whose values are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dfilter.leaderboard.cells import RESULTS, Cell, write_cell, write_result
from dfilter.types import EvalResult

EIGHT = ("random", "full", "longest", "lima", "kcenter", "duplicates", "given", "blend")
BLEND = """name = "blend"
[[steps]]
filter = "blend"
[steps.settings]
parts = [{ filter = "longest" }, { filter = "random" }]
"""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--cold", action="store_true")
    options.add_argument("--eight", action="store_true")
    asked = options.parse_args()
    print(f"{'command':<58} {'seconds':>8}")
    for command in (["--help"], ["strategies"], ["filters"]):
        row(" ".join(["dfilter", *command]), statistics.median(timed(command) for _ in range(5)))
    folder = os.environ.get("DFILTER_TEST_DATA")
    if not folder:
        print("DFILTER_TEST_DATA is not set; the runs on Alpaca are left out.")
        return
    alpaca = f"{folder}/alpaca/alpaca_data.json"
    with tempfile.TemporaryDirectory() as scratch:
        kcenter(alpaca, Path(scratch), cold=asked.cold)
        if asked.eight:
            eight(alpaca, Path(scratch))


def kcenter(alpaca: str, scratch: Path, *, cold: bool) -> None:
    home = Path(os.environ.get("DFILTER_HOME", Path.home() / ".cache/dfilter"))
    if cold:
        home = scratch / "home"
        os.environ["DFILTER_HOME"] = str(home)
        row(
            "kcenter --keep 5%, 52,002 rows, cold",
            timed(["run", alpaca, "-k", "5%", "-q", "-o", f"{scratch}/a"]),
        )
    for keep in ("5%", "9000"):
        shutil.rmtree(home / "fits", ignore_errors=True)
        name = f"kcenter --keep {keep}, 52,002 rows, embedding stored"
        row(name, timed(["run", alpaca, "-k", keep, "-q", "-o", f"{scratch}/{keep}"]))


def eight(alpaca: str, scratch: Path) -> None:
    (scratch / "blend.toml").write_text(BLEND)
    chosen = json.loads(Path(alpaca).read_text(encoding="utf-8"))[::50]
    (scratch / "rows.json").write_text(json.dumps(chosen), encoding="utf-8")
    for turn in ("first", "stored"):
        started = time.perf_counter()
        for name in EIGHT:
            strategy = f"{scratch}/blend.toml" if name == "blend" else name
            given = ["--set", f"filter.file='{scratch}/rows.json'"]
            timed([*("run", alpaca, "-s", strategy, "-k", "1000", "-q", "-o", f"{scratch}/{turn}-{name}"),
                   *(given if name == "given" else [])])  # fmt: skip
        row(f"eight strategies, 52,002 rows, signals {turn}", time.perf_counter() - started)
    draw = np.random.default_rng(0)
    prompts = [f"p{number}" for number in range(1000)]
    for name in EIGHT:
        for seed in range(3):
            values = draw.random(len(prompts))
            result = EvalResult(prompts, values, "drawn", higher_is_better=True)
            place = scratch / "cells" / f"{name}-{seed}"
            write_result(place / RESULTS / "drawn.json", result)
            budget = "full" if name == "full" else "1000"
            write_cell(place, Cell(name, budget, seed, rows=1000))
    row("leaderboard of eight strategies", timed(["leaderboard", f"{scratch}/cells"]))


def timed(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dfilter.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def row(name: str, seconds: float) -> None:
    print(f"{name:<58} {seconds:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
