"""Every figure of a recipe equals its source, and can be replaced."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dfilter.errors import SettingsError, UnknownNameError
from dfilter.train.recipes import RECIPES, recipe

# As the papers and their code give them; see the docstrings of the recipes.
PUBLISHED = {
    ("alpaca", 7e9): {
        "method": "full", "epochs": 3, "learning_rate": 2e-5, "schedule": "cosine", "warmup": 0.03,
        "batch": 128, "weight_decay": 0.0, "max_tokens": 512,
    },
    ("alpaca", 13e9): {
        "method": "full", "epochs": 5, "learning_rate": 1e-5, "schedule": "cosine", "warmup": 0.03,
        "batch": 128, "weight_decay": 0.0, "max_tokens": 512,
    },
    ("lima", 65e9): {
        "method": "full", "epochs": 15, "learning_rate": 1e-5, "final_learning_rate": 1e-6,
        "schedule": "linear", "warmup": 0.0, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "batch": 32,
        "max_tokens": 2048, "eot": True, "residual_dropout": 0.3, "keep_epochs": (5, 10),
    },
    ("lima", 7e9): {"batch": 64, "residual_dropout": 0.2, "learning_rate": 1e-5, "epochs": 15},
    ("less", 7e9): {
        "method": "lora", "lora_rank": 128, "lora_alpha": 512, "lora_dropout": 0.1, "epochs": 4,
        "learning_rate": 2e-5, "schedule": "linear", "warmup": 0.03, "weight_decay": 0.0, "batch": 32,
        "max_tokens": 2048, "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "beta1": 0.9, "beta2": 0.999,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED)
def test_recipe_equals_its_source(name: str, parameters: float) -> None:
    made = asdict(recipe(name, parameters))
    wanted = PUBLISHED[name, parameters]
    assert {key: made[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", RECIPES)
def test_single_settings_are_replaced_and_the_rest_stays(name: str) -> None:
    before = asdict(recipe(name, 1e8))
    after = asdict(recipe(name, 1e8, {"batch": 3, "lora_targets": ["q_proj"]}))
    assert after == before | {"batch": 3, "lora_targets": ("q_proj",)}


def test_all_that_is_wrong_with_overrides_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        recipe("quick", 1e8, {"learning_rat": 1, "epochs": "many"})
    assert len(caught.value.findings) == 2
    assert "learning_rate" in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"epochs": 0}, {"batch": 0}, {"warmup": 1.0}, {"keep_epochs": [3]}, {"keep_epochs": [0, 2]},
        {"schedule": "cosine", "final_learning_rate": 1e-6}, {"method": "prefix"},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        recipe("quick", 1e8, overrides)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="alpaca, less, lima, quick"):
        recipe("alpaka", 1e8)
