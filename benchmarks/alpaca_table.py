"""The table that convinces: Alpaca, SmolLM2, budgets 1k, 3k, 9k and everything, five seeds, held-out loss.

    DFILTER_TEST_DATA=... python benchmarks/alpaca_table.py [--out runs/alpaca-table] [--seeds 5] [--dry-run]

Strategies: random, longest, full, kcenter, ifd, and the selections of Alpaca that were published by
AlpaGasus and Long Is More for Alignment. It takes hours on one GPU and is killed and continued at will;
on a CPU it would take weeks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STRATEGY = """name = "{name}"
paper = "{paper}"
[[steps]]
filter = "given"
[steps.settings]
file = "{file}"
"""
PAPERS = {
    "helpfulness_t45": "arXiv:2307.08701",
    "random_9k": "arXiv:2307.08701",
    "longest_1k": "arXiv:2402.04833",
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", default="runs/alpaca-table")
    options.add_argument("--seeds", default="5")
    options.add_argument("--margin", default="0.01", help="nats; fixed before the run")
    options.add_argument("--dry-run", action="store_true")
    asked = options.parse_args()
    folder = Path(os.environ["DFILTER_TEST_DATA"]) / "alpaca"
    common = [
        str(folder / "alpaca_data.json"),
        "--seeds",
        asked.seeds,
        "--model",
        "smollm2",
        "--recipe",
        "alpaca",
    ]
    common += ["--eval", "heldout:2%", "--margin", asked.margin, "-o", asked.out]
    with tempfile.TemporaryDirectory() as scratch:
        published = write_published(folder, Path(scratch))
        compare([*common, "--strategies", "kcenter,ifd", "--keep", "1k,3k,9k"], dry_run=asked.dry_run)
        compare([*common, "--strategies", published, "--keep", "own", "--no-full"], dry_run=asked.dry_run)
    if not asked.dry_run:
        subprocess.run([sys.executable, "-m", "dfilter.cli", "leaderboard", asked.out], check=True)


def write_published(folder: Path, scratch: Path) -> str:
    """Write one strategy file for each published selection; return them as --strategies takes them.

    The selections name rows of the whole file. They are written out as rows, because setting some rows
    aside numbers the rest anew.
    """
    found = json.loads((folder / "published_selections.json").read_text())
    alpaca = json.loads((folder / "alpaca_data.json").read_text())
    files = []
    for name, paper in PAPERS.items():
        rows = scratch / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(alpaca[at]) + "\n" for at in found[name]))
        strategy = scratch / f"{name}.toml"
        strategy.write_text(STRATEGY.format(name=f"published_{name}", paper=paper, file=rows))
        files.append(str(strategy))
    return ",".join(files)


def compare(arguments: list[str], *, dry_run: bool) -> None:
    more = ["--dry-run"] if dry_run else []
    subprocess.run([sys.executable, "-m", "dfilter.cli", "compare", *arguments, *more], check=False)


if __name__ == "__main__":
    main()
