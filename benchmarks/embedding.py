"""Rows embedded a second: dfilter's Embedding against SentenceTransformer.encode at its best batch size.

    python benchmarks/embedding.py [--data ROWS.json] [--rows 512] [--repeats 3] [--dtype auto]

Both sides see the same texts, weights, number format and threads, and take turns in one process. A second
table sets float32 against bfloat16: their speed, and the k-center picks that they have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from dfilter.data.dataset import Dataset
from dfilter.embed.sentences import Embedding
from dfilter.filters.kcenter import KCenter
from dfilter.models import resolve
from dfilter.pool import Pool, Store
from dfilter.types import Example, Message


def examples(path: Path | None, count: int) -> list[Example]:
    rng = random.Random(0)
    if path is None:
        words = [
            "a",
            "list",
            "of",
            "numbers",
            "sorted",
            "by",
            "the",
            "length",
            "their",
            "names",
            "have",
            "when",
            "written",
            "in",
            "plain",
            "English",
        ]
        pairs = [
            tuple(" ".join(rng.choices(words, k=max(3, int(rng.lognormvariate(m, 0.8))))) for m in (2.7, 3.6))
            for _ in range(count)
        ]
    else:
        rows = rng.sample(json.loads(path.read_text(encoding="utf-8")), count)
        pairs = [("\n\n".join(filter(None, (r["instruction"], r["input"]))), r["output"]) for r in rows]
    return [
        Example(str(i), (Message("user", p), Message("assistant", r)), {}) for i, (p, r) in enumerate(pairs)
    ]


def rates(runs: Mapping[str, Callable[[], object]], rows: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the median rows a second of each run; they take turns, after one that is not counted."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return {name: rows / statistics.median(taken) for name, taken in seconds.items()}


def against_encode(args: argparse.Namespace) -> None:
    from sentence_transformers import SentenceTransformer

    pool = examples(args.data, args.rows)
    texts = [row.text for row in pool]
    signal = Embedding(model=args.model, dtype=args.dtype)
    where = signal.placement()
    theirs = SentenceTransformer(
        str(resolve(args.model).path), device=where.device, model_kwargs={"dtype": where.torch_dtype}
    )
    runs: dict[str, Callable[[], object]] = {"dfilter": lambda: signal.compute(pool)}
    for size in (8, 16, 32, 64, 128) if where.on_cpu else (64, 256, 1024):
        runs[f"encode, batch {size}"] = lambda size=size: theirs.encode(texts, batch_size=size)
    found = rates(runs, len(texts), args)
    print(f"{args.model}, {len(texts)} rows, {where.device}, {where.dtype}, medians of {args.repeats}")
    for name, rate in found.items():
        print(f"  {name:<20} {rate:8.1f} rows/s")
    best = max(rate for name, rate in found.items() if name != "dfilter")
    print(f"  ratio to the best batch size of encode: {found['dfilter'] / best:.2f} (wanted: at least 1)")


def formats(args: argparse.Namespace) -> None:
    """What bfloat16 gains in speed, and how many of k-center's picks it leaves as float32 finds them."""
    signals = {dtype: Embedding(model=args.model, dtype=dtype) for dtype in ("float32", "bfloat16")}
    pool = examples(args.data, args.rows)
    found = rates({name: partial(s.compute, pool) for name, s in signals.items()}, len(pool), args)
    print(f"float32 against bfloat16, {len(pool)} rows, {next(iter(signals.values())).placement().device}")
    for name, rate in found.items():
        print(f"  {name:<20} {rate:8.1f} rows/s")
    print(f"  bfloat16 is {found['bfloat16'] / found['float32']:.2f} times as fast")
    rows = Dataset.from_rows(examples(args.data, args.picks_of))
    shares = (0.05, 0.10)
    with tempfile.TemporaryDirectory() as folder:
        wanted = int(max(shares) * len(rows))
        trial = Pool(rows, seed=0, wanted=wanted, store=Store(Path(folder)))
        order = [np.argsort(-KCenter(embedding=s).score(trial).values)[:wanted] for s in signals.values()]
    for share in shares:
        k = int(share * len(rows))
        same = len(np.intersect1d(*(picks[:k] for picks in order)))
        print(f"  k-center, {k} of {len(rows)} rows: {same} picks in common ({same / k:.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("DFILTER_TEST_DATA")
    default = Path(data) / "alpaca/alpaca_data.json" if data else None
    parser.add_argument("--data", type=Path, default=default, help="a JSON array of Alpaca rows")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--picks-of", type=int, default=1_500, help="rows that k-center chooses from")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto", help="of the comparison with encode")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice unless given")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: processor seconds")
    parser.add_argument("--only", choices=("encode", "formats"), help="one of the two tables")
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    for name, table in (("encode", against_encode), ("formats", formats)):
        if args.only in (None, name):
            table(args)


if __name__ == "__main__":
    main()
