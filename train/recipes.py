"""Recipes: the settings of published fine-tunings, each figure under its source.

Where a paper is silent, the figure is that of the code it ran, or transformers' default of the time
(gradient norm clipped at 1, Adam's epsilon 1e-8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dfilter.chat import Template
from dfilter.errors import SettingsError, UnknownNameError
from dfilter.settings import build


@dataclass(frozen=True)
class Recipe:
    """Everything about a fine-tuning but the model, the rows and the seed.

    Attributes:
        method: "full" trains every weight; "lora" an adapter.
        epochs: passes over the rows, where no other budget is given.
        learning_rate: the highest.
        final_learning_rate: where the schedule ends; above 0 only with "linear".
        schedule: how the rate falls.
        warmup: share of the steps in which it rises; see :mod:`dfilter.train.schedule`.
        weight_decay: AdamW's; norms and biases are spared.
        beta1, beta2, epsilon: Adam's.
        clip: largest gradient norm; 0 does not clip.
        batch: rows of one optimizer step, over all devices.
        max_tokens: longer rows lose their end.
        base_template: for models that have no chat template.
        eot: close every turn by an end-of-turn token (see :mod:`dfilter.chat`).
        residual_dropout: at the top layer; 0 at the bottom layer, linear between.
        lora_rank, lora_alpha, lora_dropout, lora_targets: the adapter; targets are module names, or
            "all-linear".
        keep_epochs: first and last epoch among which a development set may choose; empty keeps only the end.
    """

    method: Literal["full", "lora"]
    epochs: float
    learning_rate: float
    batch: int
    max_tokens: int
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float = 0.0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 1.0
    base_template: Template = "alpaca"
    eot: bool = False
    residual_dropout: float = 0.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ("all-linear",)
    keep_epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        findings = [
            f"{name} = {getattr(self, name)} must be above 0."
            for name in ("epochs", "learning_rate", "batch", "max_tokens", "lora_rank")
            if not getattr(self, name) > 0
        ]
        if self.final_learning_rate and self.schedule != "linear":
            findings.append("final_learning_rate needs schedule = 'linear'.")
        if not 0 <= self.warmup < 1:
            findings.append(f"warmup = {self.warmup} must be a share from 0 to below 1.")
        if self.keep_epochs and (
            len(self.keep_epochs) != 2 or not 1 <= self.keep_epochs[0] <= self.keep_epochs[1]
        ):
            findings.append("keep_epochs is the first and the last epoch to keep, counted from 1.")
        if findings:
            raise SettingsError(*findings)


def alpaca(parameters: float) -> Recipe:
    """AlpaGasus's (arXiv 2307.08701, appendix on training; the code is Stanford Alpaca's train.py).

    7B: batch 128, 2e-5, 3 epochs; 13B: batch 128, 1e-5, 5 epochs; cosine, warm-up 0.03, weight decay
    0, 512 tokens.
    """
    large = parameters > 10e9
    return Recipe(
        method="full",
        epochs=5 if large else 3,
        learning_rate=1e-5 if large else 2e-5,
        batch=128,
        max_tokens=512,
        schedule="cosine",
        warmup=0.03,
        weight_decay=0.0,
    )


def lima(parameters: float) -> Recipe:
    """LIMA's (arXiv 2305.11206, §3).

    15 epochs, AdamW 0.9/0.95, weight decay 0.1, no warm-up, 1e-5 falling linearly to 1e-6, batch 32
    (64 for the smaller models), 2,048 tokens, an end-of-turn token after each turn, residual dropout
    from 0 at the bottom layer to 0.3 (0.2 for the smaller models) at the top; checkpoints of epochs
    5 to 10, of which people chose by looking at a development set, because perplexity misled.
    """
    small = parameters < 40e9  # the paper's large model has 65 B parameters, the next smaller one 30 B
    return Recipe(
        method="full",
        epochs=15,
        learning_rate=1e-5,
        final_learning_rate=1e-6,
        batch=64 if small else 32,
        max_tokens=2048,
        schedule="linear",
        warmup=0.0,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        base_template="turns",
        eot=True,
        residual_dropout=0.2 if small else 0.3,
        keep_epochs=(5, 10),
    )


def less(_parameters: float) -> Recipe:
    """LESS's (arXiv 2402.04333, appendix on training; github.com/princeton-nlp/LESS at 8abf962).

    LoRA of rank 128, alpha 512 and dropout 0.1 on query, key, value and output; 4 epochs, 2e-5 falling
    linearly, warm-up 0.03, weight decay 0, batch 32 on one device, 2,048 tokens.
    """
    return Recipe(
        method="lora",
        epochs=4,
        learning_rate=2e-5,
        batch=32,
        max_tokens=2048,
        schedule="linear",
        warmup=0.03,
        weight_decay=0.0,
        base_template="tulu",
        lora_rank=128,
        lora_alpha=512,
        lora_dropout=0.1,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    )


def quick(_parameters: float) -> Recipe:
    """For small samples and models on a CPU: ours, chosen so that one pass shows planted faults.

    LoRA of rank 16 on every linear layer, 1 epoch at 1e-3 falling linearly, batch 8, 512 tokens.
    """
    return Recipe(
        method="lora",
        epochs=1,
        learning_rate=1e-3,
        batch=8,
        max_tokens=512,
        schedule="linear",
        warmup=0.03,
        lora_rank=16,
        lora_alpha=32,
    )


RECIPES: Mapping[str, Callable[[float], Recipe]] = {
    "alpaca": alpaca,
    "less": less,
    "lima": lima,
    "quick": quick,
}


def recipe(name: str, parameters: float, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe for a model of that many parameters, with single settings replaced.

    Raises:
        UnknownNameError: there is no such recipe.
        SettingsError: an override has no such setting, or does not fit.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    base = asdict(RECIPES[name](parameters))
    made: Recipe = build(Recipe, {**base, **(overrides or {})}, f"recipe {name}")
    return made
