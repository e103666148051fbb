"""LESS from file to selection: Alpaca rows, a benchmark's examples as target, the packaged SmolLM2.

    DFILTER_TEST_DATA=... python benchmarks/less.py [--target bbh:bbh] [--rows 2000] [--run]

The store is empty, so the warm-up, the target's gradients and the rows' at four checkpoints are all
in the time. That is most of an hour on two cores: without --run only the quote is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MINUTES = 75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="bbh:bbh", help="KIND:FOLDER, below DFILTER_TEST_DATA")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--run", action="store_true")
    asked = parser.parse_args()
    data = os.environ.get("DFILTER_TEST_DATA")
    if not data:
        print("DFILTER_TEST_DATA is not set; there is nothing to select from.")
        return 0
    kind, _, place = asked.target.partition(":")
    with tempfile.TemporaryDirectory() as scratch:
        pool = Path(scratch) / "alpaca.json"
        rows = json.loads((Path(data) / "alpaca/alpaca_data.json").read_text(encoding="utf-8"))
        pool.write_text(json.dumps(random.Random(0).sample(rows, asked.rows)), encoding="utf-8")
        command = [sys.executable, "-m", "dfilter.cli", "run", str(pool), "--strategy", "less"]
        command += ["--target", f"{kind}:{data}/{place}", "--keep", "5%", "-o", f"{scratch}/run"]
        command += [] if asked.run else ["--dry-run"]
        started = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "DFILTER_HOME": f"{scratch}/home"})
    if not asked.run:
        return 0
    minutes = (time.perf_counter() - started) / 60
    print(f"{asked.rows:,} rows, target {asked.target}: {minutes:.1f} min (wanted: at most {MINUTES})")
    return int(minutes > MINUTES)


if __name__ == "__main__":
    sys.exit(main())
