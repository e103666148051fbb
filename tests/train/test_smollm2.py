"""The packaged model on real rows, with the recipe that is meant for it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from dfilter import chat, models
from dfilter.train.trainer import FineTune
from dfilter.types import Example, Message


@pytest.mark.slow
def test_quick_learns_real_rows(smollm2: Path, test_data: Path, tmp_path: Path) -> None:
    with (test_data / "alpaca" / "alpaca_data.json").open(encoding="utf-8") as file:
        told = [row for row in json.load(file) if not row["input"] and len(row["output"]) < 200]
    rows = [
        Example(str(at), (Message("user", row["instruction"]), Message("assistant", row["output"])), {})
        for at, row in enumerate(islice(told, 24))
    ]
    out = FineTune(model=str(smollm2), recipe="quick", epochs=2).train(rows, tmp_path / "a", seed=0)
    found = json.loads((out / "training.json").read_text())
    first, second = np.split(np.array(found["loss"]), 2)
    assert second.mean() < first.mean() - 0.2
    tokenizer = models.load_tokenizer(out)
    assert found["trained_tokens"] == 2 * sum(chat.render(row.messages, tokenizer).trained for row in rows)
    assert chat.style(tokenizer) == ("chat", False)
