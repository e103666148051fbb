"""Selecting for one family of the sample pool with the packaged model: what each strategy finds there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.errors import MissingPackageError
from dfilter.filters.less import LESS
from dfilter.filters.rds import RDSPlus
from dfilter.models import resolve
from dfilter.pool import Pool, Store
from dfilter.sample.pool import generate

FAMILY, ROWS, TOP = "sorting", 600, 30


@pytest.mark.slow
def test_less_finds_the_targets_family_and_passes_over_swapped_responses(tmp_path: Path) -> None:
    try:
        resolve("smollm2")
    except MissingPackageError as error:
        pytest.skip(str(error))
    sample = generate(ROWS, seed=0)
    family = np.array([truth["family"] == FAMILY for truth in sample.truth])
    clean = family & np.array([not truth["faults"] for truth in sample.truth])
    swapped = np.array(["swapped" in truth["faults"] for truth in sample.truth])
    assert family.mean() <= 0.10
    assert swapped.sum() >= 10
    store = Store(tmp_path)
    aim = Dataset.from_rows([row for row in sample.heldout if row["task"] == FAMILY])
    pool = Pool(Dataset.from_rows(sample.pool), target=Pool(aim, store=store), store=store)
    small = {"lora_rank": 32, "lora_alpha": 128, "batch": 8, "learning_rate": 2e-4}
    # LESS's own format; the model's chat template would put the same system prompt before every row.
    less = LESS(warmup=0.1, epochs=2, overrides=small, max_tokens=256, template="tulu")
    found = {
        "less": less.score(pool).values,
        "rds_plus": RDSPlus(max_tokens=256, template="tulu").score(pool).values,
        "random": np.random.default_rng(0).random(ROWS),
    }
    print(f"\ntop {TOP} of {ROWS}: share of {FAMILY}'s clean rows, of swapped responses; times the base rate")
    lifts = {}
    for name, values in found.items():
        top = np.argsort(-np.nan_to_num(values, nan=-np.inf))[:TOP]
        lifts[name] = clean[top].mean() / clean.mean(), swapped[top].mean() / swapped.mean()
        shares = f"{clean[top].mean():5.1%} {swapped[top].mean():5.1%}"
        print(f"  {name:<9} {shares}   {lifts[name][0]:.1f} {lifts[name][1]:.1f}")
    assert lifts["less"][0] >= 5
    assert lifts["less"][1] < 0.5
