"""LESS's direct mode against an ordinary LoRA training step, and against autograd at batch size 1.

    python benchmarks/influence.py [--model smollm2] [--rows 32] [--tokens 128] [--rank 128] [--repeats 3]

All three see the same rows, number format and threads and take turns in one process. The training step
is what a trainer does: forward, loss over the labels, backward, AdamW, in length-sorted batches of the
same token budget. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from embedding import examples

from dfilter.chat import Encoded, render_many, special_ids
from dfilter.embed import gradients
from dfilter.embed.adam import adam_form
from dfilter.embed.adapters import Adapted, freeze
from dfilter.embed.batches import token_batches
from dfilter.embed.causal import labelled
from dfilter.embed.device import place
from dfilter.embed.moments import Moments
from dfilter.embed.sinks import Products
from dfilter.models import load_causal


def adapter(model: str, rank: int, dtype: str) -> tuple[Any, Any, Any]:
    from peft import LoraConfig, get_peft_model

    where = place(dtype=dtype)
    base, tokenizer = load_causal(model, dtype=where.dtype, device=where.device)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(base, config).to(where.device), tokenizer, where


def training(model: Any, batches: Sequence[Sequence[Encoded]], pad: int, device: str) -> Callable[[], None]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-9)

    def run() -> None:
        model.train()
        for batch in batches:
            part = labelled(batch, pad, device)
            logits = model(input_ids=part.ids, attention_mask=part.mask, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[part.row, part.column].float(), part.target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def one_by_one(adapted: Adapted, rows: Sequence[Encoded], held: Any, adam: Any) -> Callable[[], None]:
    weights = [part.layer.weight for part in adapted.parts]

    def run() -> None:
        for weight in weights:
            weight.requires_grad_(True)
        for row in rows:
            ids = torch.tensor([row.input_ids], device=adapted.placement.device)
            labels = torch.tensor([row.labels], device=adapted.placement.device)
            loss = adapted.model(input_ids=ids, labels=labels, use_cache=False).loss
            sink = Products(held, 1, adam)
            sink.begin(torch.zeros(1, dtype=torch.int64).numpy())
            for number, gradient in enumerate(torch.autograd.grad(loss, weights)):
                sink.take(number, 0, gradient.flatten()[None].float())
        for weight in weights:
            weight.requires_grad_(False)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("DFILTER_TEST_DATA")
    default = Path(data) / "alpaca/alpaca_data.json" if data else None
    parser.add_argument("--data", type=Path, default=default, help="a JSON array of Alpaca rows")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256, help="longer rows lose their end")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--subtasks", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice unless given")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: processor seconds")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    trained, tokenizer, where = adapter(args.model, args.rank, args.dtype)
    frozen, _, _ = adapter(args.model, args.rank, args.dtype)
    adapted = freeze(frozen, tokenizer, where)
    drawn = [row for row in examples(args.data, args.rows * 2) if row.response]
    encoded = [row for row in render_many(drawn, tokenizer, max_tokens=args.tokens) if row.trained][
        : args.rows
    ]
    budget = gradients.CPU_TOKENS if where.on_cpu else gradients.ACCELERATOR_TOKENS
    cuts = token_batches([len(row.input_ids) for row in encoded], budget)
    batches = [[encoded[at] for at in cut.tolist()] for cut in cuts]
    held = [torch.randn(args.subtasks, part.size, device=where.device) for part in adapted.parts]
    zeros = tuple(torch.zeros(part.size, device=where.device) for part in adapted.parts)
    adam = adam_form(Moments(zeros, tuple(part + 1e-8 for part in zeros), step=8))
    runs = {
        "direct": lambda: gradients.stream(adapted, encoded, Products(held, len(encoded), adam)),
        "training step": training(trained, batches, special_ids(tokenizer).pad, where.device),
        "batch size 1": one_by_one(adapted, encoded, held, adam),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if where.device.startswith("cuda"):
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(clock() - started)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    tokens = sum(len(row.input_ids) for row in encoded)
    print(
        f"{args.model}, rank {args.rank} ({adapted.size:,} numbers), {len(encoded)} rows, {tokens:,} tokens, "
        f"{args.subtasks} subtasks, {where.device}, {where.dtype}, {torch.get_num_threads()} threads, "
        f"{'processor' if args.cpu_time else 'wall'} seconds, medians of {args.repeats}"
    )
    for name, taken in middle.items():
        print(f"  {name:<14} {taken:8.2f} s {tokens / taken:9.0f} tok/s")
    print(
        f"  direct / training step: {middle['direct'] / middle['training step']:.2f} (wanted: at most 1.25)"
    )
    print(
        f"  batch size 1 / direct:  {middle['batch size 1'] / middle['direct']:.2f} (wanted on 2 cores: 0.95)"
    )


if __name__ == "__main__":
    main()
