"""What LESS would leave on disk and how long it would take, before anything runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.chat import Template, render_many, style
from dfilter.embed.device import Placement
from dfilter.models import count_parameters, load_tokenizer, resolve, verified
from dfilter.progress import duration
from dfilter.types import KEY_BYTES
from dfilter.view import SEEN
from dfilter.window import window_of

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset

# A forward pass and a backward pass to the activations of a frozen model cost 2 operations each a
# weight and token; a training step of an adapter the same, its own gradients being small.
OPERATIONS = 4
# Share of a matrix product's speed that a whole pass reached, on two CPU cores with bf16 and SmolLM2,
# the rows' own gradients and their products with a target included.
EFFICIENCY = 0.25
SAMPLE_ROWS = 256


@dataclass(frozen=True)
class InfluenceQuote:
    """Size and time of one scoring.

    Attributes:
        model: whose gradients.
        mode: direct, store or reference.
        rows, target_rows, subtasks, checkpoints: how many.
        tokens: a row, on average.
        adapter: numbers in the adapter, the length of a gradient.
        kept_bytes: of the signals.
        fit_bytes: of the warm-up's checkpoints and of a stored target.
        held_bytes: of the target's directions in memory, one checkpoint's at a time.
        seconds: on this machine, estimated.
    """

    model: str
    mode: str
    rows: int
    target_rows: int
    subtasks: int
    checkpoints: int
    tokens: float
    adapter: int
    kept_bytes: int
    fit_bytes: int
    held_bytes: int
    seconds: float

    def lines(self) -> list[str]:
        """Return the quote as a person reads it."""
        what = (
            f"less with {self.model}, {self.mode}: {self.rows:,} rows of {self.tokens:.0f} tokens, "
            f"{self.target_rows:,} target rows in {self.subtasks} subtasks, {self.checkpoints} checkpoints, "
            f"gradients of {self.adapter:,} numbers"
        )
        kept, fits = _size(self.kept_bytes), _size(self.fit_bytes)
        return [
            what,
            f"  on disk: {kept} for the rows, {fits} for checkpoints and target",
            f"  in memory: {_size(self.held_bytes)} for the target, beside model and moments",
            f"  time: about {duration(self.seconds)} on this machine, by a short probe of its arithmetic",
        ]


def influence_quote(
    rows: Dataset,
    target: Dataset | None,
    *,
    model: str,
    mode: str,
    subtasks: int,
    checkpoints: tuple[str, ...],
    epochs: int,
    warmup: float,
    rank: int,
    width: int,
    template: Template,
    max_tokens: int,
    placement: Placement,
) -> InfluenceQuote:
    """Estimate from a sample of rows, the model's shapes and a probe of the machine; loads no weights."""
    base = checkpoints[0] if checkpoints else model
    adapter = count_parameters(Path(base)) if checkpoints else adapter_size(model, rank)
    count = len(checkpoints) or epochs
    tokens = _tokens(rows, base, template, max_tokens)
    wanted = 0 if target is None else len(target)
    values = {"direct": 4 * subtasks, "store": width + 4, "reference": 4 * width}[mode] + 4 + KEY_BYTES
    held = 4 * adapter * subtasks if mode == "direct" else values * wanted
    stored = 0 if mode == "direct" else values * wanted  # directions do not outlive the scoring
    passes = count * (len(rows) + 2 * wanted) + (0 if checkpoints else epochs * warmup * len(rows))
    weights = count_parameters(resolve(model).path)
    work = OPERATIONS * weights * tokens * passes
    return InfluenceQuote(
        model=model,
        mode=mode,
        rows=len(rows),
        target_rows=wanted,
        subtasks=subtasks,
        checkpoints=count,
        tokens=tokens,
        adapter=adapter,
        kept_bytes=len(rows) * (count * values + KEY_BYTES + SEEN.itemsize),
        # A checkpoint holds the adapter and its two moments in float32.
        fit_bytes=count * stored + (0 if checkpoints else count * 12 * adapter),
        held_bytes=held,
        seconds=work / (EFFICIENCY * operations_a_second(placement)),
    )


def adapter_size(model: str, rank: int) -> int:
    """Return the numbers in an adapter of that rank on query, key, value and output."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(verified(model).path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        shapes: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    return sum(
        rank * (layer.in_features + layer.out_features)
        for name, layer in shapes.named_modules()
        if name.rpartition(".")[2] in targets
    )


def operations_a_second(placement: Placement) -> float:
    """Return how many floating-point operations a second a matrix product reaches here."""
    import torch

    size = 768 if placement.on_cpu else 4_096
    left = torch.randn(size, size, device=placement.device, dtype=placement.torch_dtype)
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        float((left @ left)[0, 0])  # reading one number waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / float(best)


def _tokens(rows: Dataset, model: str, template: Template, max_tokens: int) -> float:
    tokenizer = load_tokenizer(model)
    shown, eot = style(tokenizer, template=template, base="tulu")
    some = rows.take(np.unique(np.linspace(0, len(rows) - 1, SAMPLE_ROWS).astype(np.int64)))
    limit = min(max_tokens, window_of(model, tokenizer))
    encoded = render_many(some, tokenizer, template=shown, eot=eot, max_tokens=limit)
    return float(np.mean([len(row.input_ids) for row in encoded]))


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
