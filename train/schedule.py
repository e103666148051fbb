"""The learning rate of every optimizer step.

In transformers, and so in the trainings of Alpaca and LESS, the warm-up begins *at* 0: the first step moves
no weight, and of n steps n - 1 train. Of 1,200 steps that is nothing; of the one step that a small selection
has, everything. So the rate rises here from 0 *before* the first step to the highest rate, which it reaches
at the published step; from there on every step has the published rate. No step has rate 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfilter.train.recipes import Recipe


def rate(made: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        made: the recipe.
        step: counted from 0.
        steps: of the whole training.

    Returns:
        Above 0 for every step below ``steps``.
    """
    warm = math.ceil(made.warmup * steps)
    if step < warm:
        return made.learning_rate * (step + 1) / (warm + 1)
    if made.schedule == "constant":
        return made.learning_rate
    gone = (step - warm) / max(1, steps - warm)
    if made.schedule == "cosine":
        return made.learning_rate * 0.5 * (1 + math.cos(math.pi * gone))
    return made.final_learning_rate + (made.learning_rate - made.final_learning_rate) * (1 - gone)
