"""What a full training learnt is in what is saved, and in what is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dfilter import models
from dfilter.eval.heldout import Heldout
from dfilter.train import loop
from dfilter.train.precision import lost
from dfilter.train.trainer import FineTune
from dfilter.types import Example

SMALL = {"batch": 8, "weight_decay": 0.0, "warmup": 0.0}


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model stored in bfloat16, on a machine that computes in it."""
    monkeypatch.setattr(models, "fast_dtype", lambda *_: "bfloat16")
    model, tokenizer = models.load_causal("tiny", device="cpu", dtype="bfloat16")
    model.save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    return str(tmp_path / "half")


def trained(model: str, out: Path, rows: list[Example], rate: float, **settings: Any) -> dict[str, Any]:
    overrides = {**SMALL, "learning_rate": rate}
    job = FineTune(model=model, recipe="alpaca", dtype="float32", steps=2, overrides=overrides, **settings)
    job.train(rows, out, seed=0)
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def test_what_rounding_loses_is_counted_by_hand() -> None:
    # Behind 1 the next bfloat16 is 1 + 2**-7; half of that, and all below it, rounds back to 1.
    before = torch.tensor([1.0, 1.0, 1.0, 1.0]).bfloat16()
    after = torch.tensor([1.0, 1 + 2**-9, 1 + 2**-7, 1 + 3 * 2**-9])
    grown = torch.tensor([[1.0], [1.0 + 2**-9], [5.0]])
    weights = {"a": after, "tied": after, "grown": grown, "new": torch.ones(2), "count": torch.ones(1).long()}
    began = {"a": before, "tied": before, "grown": torch.ones(2, 1).bfloat16()}
    moved, share = lost(weights, began, torch.bfloat16)
    assert moved == 3 + 2 + 2
    assert share == 2 / 7
    assert lost(weights, began, torch.float32) == (7, 0)
    assert lost(began, began, torch.bfloat16) == (0, 0)


def test_what_bfloat16_would_lose_is_saved_and_evaluated_in_float32(
    half: str, rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(loop, "refuse_nan", seen.append)
    saved = trained(half, tmp_path / "out", rows, 2e-5)["saved"]
    assert (saved["dtype"], saved["stored"]) == ("float32", "bfloat16")
    assert saved["lost"] > 0.6
    learnt = seen[-1].state_dict()
    loaded, _ = models.load_causal(tmp_path / "out", device="cpu")
    assert all(weight.equal(learnt[name]) for name, weight in loaded.state_dict().items())
    data = tmp_path / "held.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": r.prompt, "response": r.response}) for r in rows))
    base, usual, wide, narrow = (
        Heldout(str(data), dtype=dtype).evaluate(Path(model)).values.mean()  # type: ignore[arg-type]
        for model, dtype in (
            (half, "float32"),
            (str(tmp_path / "out"), "auto"),
            (str(tmp_path / "out"), "float32"),
            (str(tmp_path / "out"), "bfloat16"),
        )
    )
    assert usual == wide
    assert base - wide > 0
    assert abs((base - narrow) / (base - wide) - 1) > 0.05  # rounded, it is another model


def test_a_format_that_keeps_the_update_is_kept(half: str, rows: list[Example], tmp_path: Path) -> None:
    saved = trained(half, tmp_path / "out", rows, 0.02)["saved"]
    assert saved["dtype"] == "bfloat16"
    assert 0 <= saved["lost"] <= 0.01
    assert models.load_causal(tmp_path / "out", device="cpu")[0].dtype == torch.bfloat16


def test_rounding_that_was_asked_for_is_said(
    half: str, rows: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = trained(half, tmp_path / "out", rows, 2e-5, save_dtype="bfloat16")["saved"]
    assert saved["dtype"] == "bfloat16"
    assert saved["lost"] > 0.6
    assert [f"{saved['lost']:.0%} of the weights that moved" in line for line in caplog.messages] == [True]
    assert json.loads((tmp_path / "out" / "training.json").read_text())["warnings"] == caplog.messages


def test_a_chosen_epoch_is_said_in_its_own_format(half: str, rows: list[Example], tmp_path: Path) -> None:
    data = tmp_path / "held.jsonl"
    data.write_text(json.dumps({"prompt": rows[0].prompt, "response": rows[0].response}))
    overrides = {**SMALL, "batch": 12, "learning_rate": 2e-5, "keep_epochs": [1, 1]}
    choose: Any = Heldout(str(data))
    job = FineTune(model=half, recipe="alpaca", dtype="float32", epochs=2, overrides=overrides, choose=choose)
    out = job.train(rows, tmp_path / "out", seed=0)
    told, epoch = (json.loads((f / "training.json").read_text()) for f in (out, out / "epochs" / "epoch-01"))
    assert told["saved"] == epoch["saved"] != None  # noqa: E711
    assert told["saved"]["dtype"] == "float32"


@pytest.mark.slow
def test_nine_steps_of_alpaca_gain_saved_and_loaded_what_they_gained_in_memory(
    smollm2: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads((test_data / "alpaca" / "alpaca_data.json").read_text(encoding="utf-8"))
    short = [row for row in told if 20 < len(row["output"]) < 200]
    data = tmp_path / "held.jsonl"
    data.write_text("\n".join(map(json.dumps, short[2000:2032])))
    from dfilter.data import load
    from dfilter.eval import heldout

    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, short[1000:1024])))
    seen = []
    monkeypatch.setattr(loop, "refuse_nan", seen.append)
    job = FineTune(model=str(smollm2), recipe="alpaca", overrides={"batch": 8})
    out = job.train(load(str(tmp_path / "rows.jsonl")), tmp_path / "out", seed=0)
    assert json.loads((out / "training.json").read_text())["steps"] == 9
    base = Heldout(str(data), dtype="float32").evaluate(smollm2).values.mean()
    loaded = Heldout(str(data)).evaluate(out).values.mean()
    model: Any = seen[-1]
    tokenizer = models.load_tokenizer(out)
    monkeypatch.setattr(heldout, "load_causal", lambda *_, **__: (model.eval(), tokenizer))
    memory = Heldout(str(data)).evaluate(out).values.mean()
    assert base - memory > 0.01
    assert (base - loaded) / (base - memory) == pytest.approx(1, abs=0.05)
