"""Rows a minute that the response losses of ifd take, both losses counted.

    python benchmarks/ifd.py [--data ROWS.json] [--rows 400] [--tokens 100] [--model smollm2]

The reference runs the same sequences through the same model one batch of 8 at a time, in the rows'
own order, with logits everywhere; both take turns in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from embedding import examples

from dfilter.chat import Encoded, special_ids
from dfilter.embed.causal import Causal, labelled, load
from dfilter.embed.losses import ResponseLoss, both

if TYPE_CHECKING:
    from collections.abc import Sequence


def plainly(causal: Causal, rows: Sequence[Encoded]) -> None:
    import torch

    for start in range(0, len(rows), 8):
        part = labelled(rows[start : start + 8], special_ids(causal.tokenizer).pad, causal.placement.device)
        with torch.inference_mode():
            logits = causal.model(input_ids=part.ids, attention_mask=part.mask, use_cache=False).logits
            torch.nn.functional.cross_entropy(
                logits[part.row, part.column].float(), part.target, reduction="none"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("DFILTER_TEST_DATA")
    default = Path(data) / "alpaca/alpaca_data.json" if data else None
    parser.add_argument("--data", type=Path, default=default, help="a JSON array of Alpaca rows")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=100, help="longest row, template included")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice unless given")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: processor seconds")
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter

    signal = ResponseLoss(model=args.model)
    causal = load(args.model, signal.placement())
    drawn = [row for row in examples(args.data, args.rows * 6) if row.response]
    shown = both(drawn, causal.tokenizer, signal.template, args.tokens, opened=True)
    fitting = [at for at, (row, _) in enumerate(shown) if row.input_ids][: args.rows]
    rows, prompted = [drawn[at] for at in fitting], [shown[at][0] for at in fitting]
    lone = [shown[at][1] for at in fitting]
    runs = {
        "dfilter": lambda: signal.compute(rows),
        "batches of 8": lambda: plainly(causal, [*prompted, *lone]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    signal.compute(rows[:16])
    for _ in range(args.repeats):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    where = signal.placement()
    tokens = np.mean([len(row.input_ids) for row in prompted])
    print(
        f"{args.model}, {len(rows)} rows of {tokens:.0f} tokens, {where.device}, {where.dtype}, both losses"
    )
    for name, taken in seconds.items():
        print(f"  {name:<14} {60 * len(rows) / statistics.median(taken):8.0f} rows/min")
    ratio = statistics.median(seconds["batches of 8"]) / statistics.median(seconds["dfilter"])
    print(f"  ratio {ratio:.2f} (wanted on two cores with bf16: at least 1,000 rows/min)")


if __name__ == "__main__":
    main()
