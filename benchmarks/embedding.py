"""Rows embedded a second: dfilter's Embedding against SentenceTransformer.encode at its best batch size.

    python benchmarks/embedding.py [--data ROWS.json] [--rows 768] [--repeats 3] [--dtype auto]

Both sides see the same texts, weights, number format and threads, and take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

from dfilter.embed.device import place
from dfilter.embed.sentences import Embedding
from dfilter.models import resolve
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("DFILTER_TEST_DATA")
    default = Path(data) / "alpaca/alpaca_data.json" if data else None
    parser.add_argument("--data", type=Path, default=default, help="a JSON array of Alpaca rows")
    parser.add_argument("--rows", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice unless given")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: processor seconds")
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter

    from sentence_transformers import SentenceTransformer

    pool = examples(args.data, args.rows)
    texts = [row.text for row in pool]
    signal = Embedding(model=args.model, dtype=args.dtype)
    where = place(dtype=args.dtype)
    theirs = SentenceTransformer(
        str(resolve(args.model).path), device=where.device, model_kwargs={"dtype": where.torch_dtype}
    )
    runs = {"dfilter": lambda: signal.compute(pool)}
    for size in (8, 16, 32, 64, 128) if where.on_cpu else (64, 256, 1024):
        runs[f"encode, batch {size}"] = lambda size=size: theirs.encode(texts, batch_size=size)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    rates = {name: len(texts) / statistics.median(taken) for name, taken in seconds.items()}
    print(f"{args.model}, {len(texts)} rows, {where.device}, {where.dtype}, medians of {args.repeats}")
    for name, rate in rates.items():
        print(f"  {name:<20} {rate:8.1f} rows/s")
    best = max(rate for name, rate in rates.items() if name != "dfilter")
    print(f"  ratio to the best batch size of encode: {rates['dfilter'] / best:.2f} (wanted: at least 1)")


if __name__ == "__main__":
    main()
