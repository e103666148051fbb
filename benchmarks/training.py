"""Training throughput against TRL's SFTTrainer: same model, rows, optimizer batch and dtype, in one run.

    python benchmarks/training.py                                  8 M random Llama, full and LoRA, CPU
    python benchmarks/training.py --model smollm2 --method lora    the packaged SmolLM2
    python benchmarks/training.py --device cuda --model 1b         random weights, share of the card's peak

Both sides read the same ragged rows, already tokenized, in steps of the same number of rows. TRL runs twice:
as it comes (random order) and with transformers' length grouping; the ratio is to the faster of the two.
Runs alternate, the first round is thrown away, and medians are printed. Tokens are those of the rows;
padding counts for nothing. TRL is needed only here: pip install 'dfilter[bench]'.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback

from dfilter import models
from dfilter.chat import IGNORE
from dfilter.train import loop
from dfilter.train.adapters import adapt
from dfilter.train.recipes import recipe
from dfilter.train.rows import Rows
from dfilter.train.trainer import MICRO_TOKENS

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary
    "8m": (256, 688, 6, 8, 4, 8192),
    "1b": (2048, 8192, 16, 32, 8, 49152),
}
PEAK = 989e12  # dense bfloat16 of an H100 or H200, FLOP/s


class Clock(TrainerCallback):
    """Time of all steps, by the wall or in this process's own CPU seconds."""

    def __init__(self, cpu: bool) -> None:
        self.now = time.process_time if cpu else time.perf_counter
        self.began = self.ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = self.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Wait for the device, then look at the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = self.now()


def build(name: str, dtype: torch.dtype, device: str) -> Any:
    torch.manual_seed(0)
    if name not in SHAPES:
        return AutoModelForCausalLM.from_pretrained(models.resolve(name).path, dtype=dtype).to(device)
    hidden, inner, layers, heads, kv, vocabulary = SHAPES[name]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).to(device=device, dtype=dtype)


def ragged(count: int, mean: int, vocabulary: int) -> Rows:
    """Rows as long as instruction data are: log-normal lengths, the second half of each row labelled."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(mean) - 0.18, 0.6, count), 16, 4 * mean).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.integers(3, vocabulary, offsets[-1]).astype(np.int32)
    labels = ids.copy()
    for start, length in zip(offsets, lengths, strict=False):
        labels[start : start + length // 2] = IGNORE
    return Rows(ids, labels, offsets, lengths - np.maximum(lengths // 2, 1))


def ours(setup: argparse.Namespace, rows: Rows, folder: Path) -> Any:
    made = recipe("quick", 1e8, {"method": setup.method, "batch": setup.batch, "lora_rank": 16})
    model = build(setup.model, setup.base, setup.device)
    if setup.method == "lora":
        model = adapt(model, made)
    args = loop.arguments(made, folder, steps=setup.steps, seed=0, checkpointing=False, devices=1)
    return loop.Loop(model, args, rows, recipe=made, pad=0, micro_tokens=setup.micro_tokens, bf16=setup.bf16)


def trl(setup: argparse.Namespace, rows: Rows, folder: Path, grouped: bool) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(
        [
            {"input_ids": ids.tolist(), "labels": labels.tolist()}
            for ids, labels in (rows[at] for at in range(len(rows)))
        ]
    )
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=setup.steps,
        per_device_train_batch_size=min(setup.per_device, setup.batch),
        gradient_accumulation_steps=max(1, setup.batch // setup.per_device),
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        warmup_steps=0.03,
        bf16=setup.bf16,
        use_cpu=setup.device == "cpu",
        dataloader_pin_memory=setup.device != "cpu",
        activation_checkpointing=False,
        max_length=None,
        packing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="group_by_length" if grouped else "random",
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
    )
    model = build(setup.model, setup.base, setup.device)
    tokenizer = models.load_tokenizer("tiny")
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora if setup.method == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def tokens_per_second(trainer: Any, rows: Rows, cpu: bool) -> tuple[float, float]:
    """Return tokens a second, and the loss of the last step."""
    clock = Clock(cpu)
    trainer.add_callback(clock)
    trainer.train()
    loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    return float(rows.offsets[-1]) / (clock.ended - clock.began), loss


def measure(setup: argparse.Namespace) -> None:
    rows = ragged(setup.batch * setup.steps, setup.length, SHAPES.get(setup.model, (0,) * 5 + (49152,))[5])
    sides = {
        "dfilter": lambda folder: ours(setup, rows, folder),
        "TRL": lambda folder: trl(setup, rows, folder, grouped=False),
        "TRL, grouped": lambda folder: trl(setup, rows, folder, grouped=True),
    }
    if setup.no_trl:
        sides = {"dfilter": sides["dfilter"]}
    found: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for turn in range(setup.rounds + 1):
        for name, make in sides.items():
            with tempfile.TemporaryDirectory() as folder, models.quiet_transformers():
                speed, losses[name] = tokens_per_second(make(Path(folder)), rows, setup.cpu_time)
            gc.collect()
            if turn:
                found[name].append(speed)
    report(setup, found, losses)


def report(setup: argparse.Namespace, found: dict[str, list[float]], losses: dict[str, float]) -> None:
    head = f"{setup.model} {setup.method} {setup.dtype} {setup.device}, batch {setup.batch}"
    clock = "CPU time" if setup.cpu_time else "wall time"
    print(f"\n{head}, rows of {setup.length} tokens on average, {setup.threads} threads, {clock}")
    print(f"{'':14}{'tokens/s':>10}{'range':>18}{'last loss':>11}")
    for name, speeds in found.items():
        span = f"{min(speeds):,.0f}-{max(speeds):,.0f}"
        print(f"{name:14}{statistics.median(speeds):>10,.0f}{span:>18}{losses[name]:>11.3f}")
    others = [speeds for name, speeds in found.items() if name != "dfilter"]
    if others:
        ratios = [mine / max(theirs) for mine, *theirs in zip(found["dfilter"], *others, strict=True)]
        print(
            f"ratio to the faster TRL of each round: {statistics.median(ratios):.2f}, least {min(ratios):.2f}"
        )
    if setup.device == "cuda":
        weights = sum(p.numel() for p in build(setup.model, torch.bfloat16, "cpu").parameters())
        # Forward and backward of the activations, and of the weights unless they are frozen.
        flops = (6 if setup.method == "full" else 4) * weights * statistics.median(found["dfilter"])
        card = torch.cuda.get_device_name()
        of = f"{flops / setup.peak:.0%} of {setup.peak / 1e12:.0f} TFLOP/s bf16"
        print(f"{card}: {weights / 1e9:.2f} B weights, {of}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="8m", help="8m, 1b (random weights), or a name that dfilter knows")
    parser.add_argument("--method", choices=("full", "lora", "both"), default="both")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=16, help="rows of an optimizer step")
    parser.add_argument("--per-device", type=int, default=8, help="rows of one of TRL's forward passes")
    parser.add_argument(
        "--micro-tokens", type=int, help="padded tokens of one of ours; the trainer's own unless set"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="mean tokens of a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine; with --threads 1")
    parser.add_argument("--peak", type=float, default=PEAK, help="the card's dense bf16 FLOP/s")
    parser.add_argument("--no-trl", action="store_true")
    setup = parser.parse_args()
    torch.set_num_threads(setup.threads)
    setup.micro_tokens = setup.micro_tokens or MICRO_TOKENS[setup.device == "cuda"]
    methods = ("full", "lora") if setup.method == "both" else (setup.method,)
    for setup.method in methods:
        setup.bf16 = setup.dtype == "bfloat16"
        # Full training holds float32 weights; an adapter sits on a base in the dtype that is computed in.
        setup.base = torch.bfloat16 if setup.bf16 and setup.method == "lora" else torch.float32
        measure(setup)


if __name__ == "__main__":
    main()
