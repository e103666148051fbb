"""How fast rows are read, and in how much memory.

    python benchmarks/reading.py [--rows 200000] [--repeats 3] [--million]

One core, one fresh process a measurement, taken in turns. "open_dataset, first" hashes the file, parses
and checks every row, hashes its content and writes the Arrow files; "verified" finds and verifies them, as
once a day; "again" finds that they were.
References over the same file: ``json.loads`` of every line and nothing else, and pyarrow's JSON reader,
which types columns and checks nothing. ``--million`` reads one million rows once more for the peak of
resident memory. Rows are Alpaca's when DFILTER_TEST_DATA names a folder that holds them, else made up
to its lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WAYS = ("json.loads", "pyarrow.json", "open_dataset, first", "verified", "again")
WORDS = [
    "the",
    "a",
    "of",
    "model",
    "data",
    "sentence",
    "answer",
    "three",
    "explain",
    "list",
    "write",
    "number",
    "city",
    "green",
    "why",
    "how",
    "it",
    "is",
]


def base_rows() -> list[dict[str, str]]:
    folder = os.environ.get("DFILTER_TEST_DATA")
    alpaca = Path(folder) / "alpaca" / "alpaca_data.json" if folder else None
    if alpaca and alpaca.is_file():
        rows: list[dict[str, str]] = json.loads(alpaca.read_text(encoding="utf-8"))
        return rows
    draw = random.Random(0)

    def text(mean: float) -> str:
        return " ".join(draw.choices(WORDS, k=1 + int(draw.expovariate(1 / mean))))

    # Alpaca's mean lengths: 10 words of instruction, 6 of input where there is one, 44 of output.
    return [
        {"instruction": text(10), "input": text(6) if draw.random() < 0.4 else "", "output": text(44)}
        for _ in range(50_000)
    ]


def lines(count: int) -> Iterator[str]:
    rows = base_rows()
    for number in range(count):
        row = rows[number % len(rows)]
        changed = row | {"instruction": f"{number}. {row['instruction']}"}
        yield json.dumps(changed, ensure_ascii=False) + "\n"


def measure(way: str, path: Path, cache: Path) -> dict[str, float]:
    """Run in a process of its own; what is imported beforehand is not counted."""
    import pyarrow as pa
    import pyarrow.json as pj

    from dfilter.data import open_dataset

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start, cpu = time.perf_counter(), time.process_time()
    if way == "json.loads":
        with path.open("rb") as file:
            rows = sum(1 for line in file if json.loads(line))
    elif way == "pyarrow.json":
        reader = pj.open_json(path, read_options=pj.ReadOptions(use_threads=False, block_size=4 << 20))
        rows = sum(batch.num_rows for batch in reader)
    else:
        rows = open_dataset(path, cache=cache).source.read
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(way: str, path: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", way, "--path", str(path), "--cache", str(cache)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found: dict[str, float] = json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    )
    return found


def table(folder: Path, count: int, repeats: int) -> None:
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as out:
        out.writelines(lines(count))
    size = path.stat().st_size
    print(f"{count:,} rows, {size / 1e6:,.0f} MB, {size / count:,.0f} bytes a row; median of {repeats}\n")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(repeats):
        for way in WAYS:
            if way == "verified":
                time.sleep(2.5)  # files that were just written are not remembered
            found[way].append(apart(way, path, folder / f"cache{turn}"))
    reference = statistics.median(run["rows"] / run["seconds"] for run in found["json.loads"])
    print(f"{'':22}{'rows/s':>12}{'of json.loads':>15}{'rows/s of CPU':>15}{'peak MB':>9}")
    for way, runs in found.items():
        rate = statistics.median(run["rows"] / run["seconds"] for run in runs)
        cpu = statistics.median(run["rows"] / run["cpu"] for run in runs)
        peak = max(run["megabytes"] for run in runs)
        print(f"{way:22}{rate:>12,.0f}{rate / reference:>15.2f}{cpu:>15,.0f}{peak:>9,.0f}")


def million(folder: Path) -> None:
    path = folder / "million.jsonl"
    with path.open("w", encoding="utf-8") as out:
        out.writelines(lines(1_000_000))
    run = apart("open_dataset, first", path, folder / "cache-million")
    print(f"\n1,000,000 rows, {path.stat().st_size / 1e6:,.0f} MB: {run['seconds']:.1f} s, ", end="")
    print(f"{run['rows'] / run['seconds']:,.0f} rows/s, peak {run['megabytes']:,.0f} MB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.path, options.cache)))
        return
    with tempfile.TemporaryDirectory() as name:
        table(Path(name), options.rows, options.repeats)
        if options.million:
            million(Path(name))


if __name__ == "__main__":
    main()
