from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfilter.chat import IGNORE, Encoded, render_many
from dfilter.embed.causal import load
from dfilter.embed.device import place
from dfilter.embed.losses import ResponseLoss, mean_losses, opening
from dfilter.embed.prefix import read_prefix, shared_tokens
from dfilter.tolerance import disagreement
from dfilter.types import Example, Message

WORDS = ["list", "the", "answer", "is", "two", "small", "house", "man", "write", "a", "word"]
SYSTEM = Message("system", "you are to give the answer in as few words as you can, and no more than that")


def rows(count: int, *, system: bool = False) -> list[Example]:
    rng = np.random.default_rng(count)

    def say(most: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, most)))

    head = (SYSTEM,) if system else ()
    return [
        Example(str(i), (*head, Message("user", say(20)), Message("assistant", say(12))), {})
        for i in range(count)
    ]


def signal(**changes: object) -> ResponseLoss:
    return replace(ResponseLoss(model="tiny", dtype="float32", device="cpu"), **changes)


def slow_loss(text_ids: list[int], labels: list[int]) -> float:
    """One row at a time, all logits, the loss by its definition."""
    import torch

    model = load("tiny", place("cpu", "float32")).model
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([text_ids])).logits[0]
    said = [
        -torch.log_softmax(logits[at - 1], -1)[label].item()
        for at, label in enumerate(labels)
        if label >= 0 and at
    ]
    return float(np.mean(said))


@pytest.mark.parametrize("system", [False, True])
def test_both_losses_equal_a_loop_over_rows(system: bool) -> None:
    pool = rows(9, system=system)
    values = signal().compute(pool)
    tokenizer = load("tiny", place("cpu", "float32")).tokenizer
    encoded = render_many(pool, tokenizer, turns="last")
    assert (read_prefix(load("tiny", place("cpu", "float32")), encoded) is not None) == system
    lead = tokenizer("<|im_start|>assistant\n", add_special_tokens=False).input_ids
    for value, row in zip(values, encoded, strict=True):
        *response, end = [label for label in row.labels if label != IGNORE]
        assert tokenizer.decode([end]) == "<|im_end|>"  # which is no part of the response
        labels = [IGNORE if label == end else label for label in row.labels]
        assert value["prompted"] == pytest.approx(slow_loss(row.input_ids, labels), abs=1e-5)
        alone = slow_loss([*lead, *response], [*[IGNORE] * len(lead), *response])
        assert value["alone"] == pytest.approx(alone, abs=1e-5)
        assert value["tokens"] == len(response)


def test_without_an_opening_nothing_predicts_the_first_token() -> None:
    row = rows(1)
    value = signal(opening=False).compute(row)[0]
    tokenizer = load("tiny", place("cpu", "float32")).tokenizer
    response = [label for label in render_many(row, tokenizer)[0].labels if label != IGNORE][:-1]
    assert value["alone"] == pytest.approx(slow_loss(response, response), abs=1e-5)
    assert value["prompted"] == signal().compute(row)[0]["prompted"]


def test_a_value_does_not_depend_on_company() -> None:
    pool = rows(12, system=True)
    together = signal().compute(pool)
    for name in ("prompted", "alone"):
        apart = np.concatenate([signal().compute(pool[i : i + 1])[name] for i in range(len(pool))])
        np.testing.assert_allclose(apart, together[name], atol=1e-5)


def test_a_response_of_more_tokens_is_allowed_less() -> None:
    values = signal(dtype="bfloat16").compute(rows(4))
    values["tokens"] = [0, 1, 4, 100]
    allowed = signal(dtype="bfloat16").tolerance(values)
    np.testing.assert_allclose(allowed["prompted"], [np.inf, 0.5, 0.25, 0.05])
    assert signal().tolerance(values)["alone"][1] < 2e-4
    assert "tokens" not in allowed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shared_prefix_stays_within_the_tolerance(dtype: str) -> None:
    pool, fast = rows(24, system=True), signal(dtype=dtype)
    apart = np.concatenate([fast.compute(pool[i : i + 5]) for i in range(0, len(pool), 5)])
    assert disagreement(fast, fast.compute(pool), apart) is None


def test_a_response_beyond_the_limit_is_not_measured() -> None:
    pool = [*rows(2), Example("long", (Message("user", "a " * 300), Message("assistant", "yes")), {})]
    values = signal(max_tokens=64).compute(pool)
    assert values["tokens"][2] == 0
    assert np.isnan(values["prompted"][2])
    assert np.isnan(values["alone"][2])
    assert np.isfinite(values["prompted"][:2]).all()


def test_a_row_is_measured_whole_or_not_at_all() -> None:
    (row,) = rows(1)
    tokenizer = load("tiny", place("cpu", "float32")).tokenizer
    (whole,) = render_many([row], tokenizer)
    needed = max(at for at, label in enumerate(whole.labels) if label != IGNORE)  # without the end token
    assert signal(max_tokens=needed).compute([row])["tokens"][0] == whole.trained - 1
    assert signal(max_tokens=needed - 1).compute([row])["tokens"][0] == 0


def test_the_shared_prefix_ends_before_the_first_prediction() -> None:
    same = [1, 2, 3, 4]
    one = Encoded([*same, 5], [IGNORE] * 4 + [5])
    other = Encoded([*same, 6], [IGNORE] * 4 + [6])
    assert shared_tokens([one, other]) == 3
    assert shared_tokens([one, Encoded([1, 2, 9, 9, 9, 9], [IGNORE] * 5 + [9])]) == 2
    assert shared_tokens([one]) == 0


def test_openings_of_templates() -> None:
    tokenizer = load("tiny", place("cpu", "float32")).tokenizer
    assert tokenizer.decode(opening(tokenizer, "auto")) == "<|im_start|>assistant\n"
    assert tokenizer.decode(opening(tokenizer, "alpaca")) == "### Response:"
    assert tokenizer.decode(opening(tokenizer, "tulu")) == "<|assistant|>\n"
    assert opening(tokenizer, "lines") == []


@pytest.mark.parametrize(
    ("asking", "opens"),
    [
        # Phi-3's kind closes a text that asks for nothing; DeepSeek's begins a thought that no reply has.
        ("<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}", "<|im_start|>assistant\n"),
        ("<|im_start|>assistant\n<think>\n{% endif %}", "<|im_start|>assistant\n"),
    ],
)
def test_an_opening_is_what_stands_between_prompt_and_reply(asking: str, opens: str) -> None:
    from dfilter.models import load_tokenizer

    tokenizer = load_tokenizer("tiny")
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer.chat_template = f"{turns}{{% if add_generation_prompt %}}{asking}"
    assert tokenizer.decode(opening(tokenizer, "chat")) == opens


def test_spec_follows_what_changes_a_value() -> None:
    specs = [
        signal(**change).spec()
        for change in ({}, {"template": "alpaca"}, {"opening": False}, {"max_tokens": 9}, {"dtype": "auto"})
    ]
    assert len({str(spec) for spec in specs}) == len(specs)
    assert signal(device="auto").spec() == signal().spec()


def test_no_rows_and_no_labels() -> None:
    assert signal().compute([]).shape == (0,)
    means, counts = mean_losses(load("tiny", place("cpu", "float32")), [Encoded([1, 2], [IGNORE, IGNORE])])
    assert np.isnan(means[0])
    assert counts[0] == 0
