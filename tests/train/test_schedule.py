"""No step has rate 0, and behind the warm-up every step has the published rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import get_scheduler

from dfilter.train.recipes import RECIPES, Recipe, recipe
from dfilter.train.schedule import rate
from dfilter.train.trainer import FineTune
from dfilter.types import Example


@given(st.sampled_from(sorted(RECIPES)), st.integers(1, 500), st.floats(0, 0.99))
def test_every_step_has_a_rate_above_zero_and_at_most_the_highest(
    name: str, steps: int, warmup: float
) -> None:
    made = recipe(name, 1e8, {"warmup": warmup})
    rates = [rate(made, step, steps) for step in range(steps)]
    assert all(0 < one <= made.learning_rate for one in rates)


def published(made: Recipe, warm: int, steps: int) -> list[float]:
    """The rates of transformers' own schedule."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=made.learning_rate)
    schedule = get_scheduler(made.schedule, optimizer, num_warmup_steps=warm, num_training_steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("name", "steps"), [("alpaca", 1219), ("alpaca", 9), ("less", 64), ("quick", 40)])
def test_behind_the_warm_up_every_rate_is_transformers(name: str, steps: int) -> None:
    made = recipe(name, 1e8)
    warm = -int(-made.warmup * steps // 1)
    theirs = published(made, warm, steps)
    ours = [rate(made, step, steps) for step in range(steps)]
    assert ours[warm:] == pytest.approx(theirs[warm:])
    assert theirs[0] == 0
    rising = [made.learning_rate * (step + 1) / (warm + 1) for step in range(warm + 1)]
    assert ours[: warm + 1] == pytest.approx(rising)


def test_one_step_trains(rows: list[Example], tmp_path: Path) -> None:
    out = FineTune(model="tiny", recipe="quick", dtype="float32").train(rows[:8], tmp_path / "a", seed=0)
    told = json.loads((out / "training.json").read_text())
    assert told["steps"] == 1
    assert told["learning_rate"] == [pytest.approx(5e-4)]
    weights = load_file(out / "adapter_model.safetensors")
    assert all(weight.any() for name, weight in weights.items() if "lora_B" in name)
