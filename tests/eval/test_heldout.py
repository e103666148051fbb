"""Held-out loss against a plain loop over the model's own logits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dfilter.chat import render
from dfilter.errors import InputError, SettingsError
from dfilter.eval.heldout import Heldout
from dfilter.models import load_causal, load_tokenizer, resolve
from dfilter.types import Message


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "held.jsonl"
    made = [
        {"instruction": "add two numbers", "output": "12"},
        {"instruction": "tell a story " * 6, "output": "Once upon a time there was a number. " * 3},
        {"instruction": "short", "output": "a b c d e"},
        {"instruction": "question", "input": "with context", "output": "an answer of some words"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in made))
    return path


@pytest.fixture
def tiny():
    return resolve("tiny").path


def slow_loss(model, tokenizer, prompt, answer):
    """The answer's token losses, one row at a time, in float32."""
    import torch

    row = render((Message("user", prompt), Message("assistant", answer)), tokenizer)
    with torch.inference_mode():
        logits = model(torch.tensor([row.input_ids])).logits[0].float()
    return [
        -torch.log_softmax(logits[at - 1], -1)[label].item()
        for at, label in enumerate(row.labels)
        if label != -100 and at > 0
    ]


def test_losses_equal_a_plain_loop(rows, tiny):
    model, tokenizer = load_causal(tiny, dtype="float32")
    texts = [json.loads(line) for line in rows.read_text().splitlines()]
    slow = [
        slow_loss(
            model, tokenizer, "\n\n".join(filter(None, (r["instruction"], r.get("input")))), r["output"]
        )
        for r in texts
    ]
    found = Heldout(str(rows), dtype="float32").evaluate(tiny)
    assert found.values == pytest.approx([np.mean(x) for x in slow], abs=1e-4)
    assert found.facts["tokens"] == [len(x) for x in slow]
    assert found.facts["loss_per_token"] == pytest.approx(sum(map(sum, slow)) / sum(map(len, slow)), abs=1e-4)
    assert found.facts["loss_per_row"] == pytest.approx(found.values.mean())
    assert found.facts["proxy"] is True
    assert found.higher_is_better is False


def test_the_mean_per_token_is_that_of_the_whole_file(rows, tiny):
    found = Heldout(str(rows), per="token", dtype="float32").evaluate(tiny)
    assert found.values.mean() == pytest.approx(found.facts["loss_per_token"])
    assert found.metric == "held-out loss per token"


def test_batches_change_nothing(rows, tiny):
    one, many = (
        Heldout(str(rows), dtype="float32", batch_tokens=size).evaluate(tiny) for size in (1, 10_000)
    )
    assert one.values == pytest.approx(many.values, abs=1e-5)
    assert one.prompts == many.prompts


def test_a_row_whose_answer_is_cut_off_has_no_value(rows, tiny):
    tokenizer = load_tokenizer(tiny)
    longest = max(
        len(render((Message("user", json.loads(line)["instruction"]),
                    Message("assistant", "x")), tokenizer).input_ids)
        for line in rows.read_text().splitlines()
    )  # fmt: skip
    found = Heldout(str(rows), max_tokens=longest - 6, dtype="float32").evaluate(tiny)
    assert [math.isnan(v) for v in found.values] == [False, True, False, False]
    with pytest.raises(InputError, match="within 2 tokens"):
        Heldout(str(rows), max_tokens=2).evaluate(tiny)
    with pytest.raises(SettingsError, match="max_tokens"):
        Heldout(str(rows), max_tokens=1)


def test_repeated_prompts_share_a_cluster(tmp_path, tiny):
    path = tmp_path / "held.jsonl"
    lines = [{"instruction": q, "output": a} for q, a in (("same", "1"), ("other", "2"), ("Same!", "3"))]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert Heldout(str(path)).evaluate(tiny).facts["clusters"] == [0, 1, 0]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_is_measured_without_rounding(rows, tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_causal(tiny, dtype="float32")
    settings = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, settings)
    tuned.peft_config["default"].base_model_name_or_path = str(tiny)
    tuned.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    one, two = (
        Heldout(str(rows), dtype="float32").evaluate(tmp_path / name) for name in ("adapter", "merged")
    )
    assert one.values == pytest.approx(two.values, abs=1e-4)
    assert np.abs(one.values - Heldout(str(rows), dtype="float32").evaluate(tiny).values).max() > 1e-3
