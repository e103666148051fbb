from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.embed.losses import LOSSES
from dfilter.errors import SettingsError
from dfilter.filters.ifd import IFD
from dfilter.models import load_causal
from dfilter.pool import Pool
from dfilter.turns import ALPACA_HEAD, ALPACA_PAIRED
from dfilter.types import Example, Message


class Known:
    """Stands in for a pool whose losses are known."""

    def __init__(self, prompted: list[float], alone: list[float]) -> None:
        self.losses = np.zeros(len(prompted), dtype=LOSSES)
        self.losses["prompted"], self.losses["alone"] = prompted, alone
        self.rows = Dataset.from_rows([example(at, "word", "answer") for at in range(len(prompted))])

    def signal(self, _: object) -> Any:
        return self.losses


def example(number: int, prompt: str, response: str) -> Example:
    return Example(str(number), (Message("user", prompt), Message("assistant", response)), {})


PROMPTED, ALONE = [1.0, 2.0, 3.0, 3.5, float("nan")], [2.0, 2.5, 3.0, 3.0, float("nan")]


def test_cherry_divides_losses_and_drops_where_the_prompt_does_not_help() -> None:
    scores = IFD("tiny").score(Known(PROMPTED, ALONE))  # type: ignore[arg-type]
    np.testing.assert_allclose(scores.values, [0.5, 0.8, 1.0, np.nan, np.nan])  # its script drops above 1
    assert scores.reasons == [
        "ratio 0.500",
        "ratio 0.800",
        "ratio 1.000",
        "the prompt does not help: ratio 1.167",
        "the model gives no finite loss",
    ]
    assert scores.facts["prompt_does_not_help"] == 1
    assert scores.facts["not_measured"] == 1


def test_superfilter_divides_perplexities() -> None:
    scores = IFD("tiny", definition="superfilter").score(Known(PROMPTED, ALONE))  # type: ignore[arg-type]
    np.testing.assert_allclose(scores.values, [np.exp(-1), np.exp(-0.5), np.nan, np.nan, np.nan])


def test_direction_and_cut_are_settings() -> None:
    lowest = IFD("tiny", keep="lowest", cut=0.0).score(Known(PROMPTED, ALONE))  # type: ignore[arg-type]
    np.testing.assert_allclose(lowest.values, [-0.5, -0.8, -1.0, -3.5 / 3, np.nan])
    tighter = IFD("tiny", cut=0.8).score(Known(PROMPTED, ALONE))  # type: ignore[arg-type]
    np.testing.assert_allclose(tighter.values, [0.5, 0.8, np.nan, np.nan, np.nan])


def test_a_response_that_costs_nothing_alone_has_no_loss_ratio() -> None:
    scores = IFD("tiny", cut=0.0).score(Known([1.0], [0.0]))  # type: ignore[arg-type]
    assert np.isnan(scores.values).all()


def test_superfilter_shows_the_lone_response_bare() -> None:
    assert IFD().signal().opening
    assert not IFD(definition="superfilter").signal().opening


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        IFD(definition="x", keep="y", cut=float("nan"), max_tokens=1)  # type: ignore[arg-type]
    assert len(caught.value.findings) == 4


def test_a_pool_is_scored_end_to_end_and_rows_may_be_permuted() -> None:
    rows = [example(i, f"write {i} words", "the list is " + "two " * i) for i in range(12)]
    rows.append(example(99, "word " * 2000, "too far away"))
    made = IFD(model="tiny", dtype="float32", cut=0.0)
    forward = made.score(Pool(Dataset.from_rows(rows))).values
    backward = made.score(Pool(Dataset.from_rows(rows[::-1]))).values
    np.testing.assert_array_equal(forward, backward[::-1])
    assert np.isnan(forward[-1])
    assert np.isfinite(forward[:-1]).all()


def published(record: dict[str, str], definition: str, model: Any, tokenizer: Any) -> float:
    """The ratio as the papers' scripts compute it: whole texts, the response found in them, one by one.

    Too long a row is out in Cherry's (as its script means it), and cut in Superfiltering's, the lone response
    to what its prompt leaves of the window.
    """
    import torch

    said, given = record["output"], record["input"]
    if definition == "cherry":
        head = ALPACA_HEAD.format(paired=ALPACA_PAIRED if given else "")
        given = f"### Input:\n{given}\n\n" if given else ""
        prompt = f"{head}\n\n### Instruction:\n{record['instruction']}\n\n{given}### Response:"
        texts, limits = (prompt + said, "### Response:" + said), (512, 512)
    else:
        prompt = f"{record['instruction']}\n" + (f"{given}\n" if given else "")
        asked = len(tokenizer(prompt, truncation=True, max_length=1024).input_ids)
        texts, limits = (prompt + said, said), (1024, 1024 - asked + 1)
    losses = []
    for text, limit in zip(texts, limits, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        ids = ids[:, :limit] if definition == "superfilter" else ids
        labels = ids.clone()
        labels[:, : len(tokenizer(text[: text.rfind(said)]).input_ids)] = -100
        if ids.shape[1] > limit or not (labels[0, 1:] != -100).any():
            return float("nan")
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    return losses[0] / losses[1] if definition == "cherry" else float(np.exp(losses[0] - losses[1]))


def compared(records: list[dict[str, str]], definition: str, name: str) -> tuple[Any, Any]:
    """The product's ratios and the scripts', of rows of Alpaca's shape."""
    filter_ = IFD(name, definition=definition, cut=0.0, dtype="float32")  # type: ignore[arg-type]
    ours = filter_.score(Pool(Dataset.from_rows(records))).values
    model, tokenizer = load_causal(name, dtype="float32", device="cpu")
    return ours, np.array([published(record, definition, model, tokenizer) for record in records])


@pytest.mark.parametrize("definition", ["cherry", "superfilter"])
def test_the_ratio_is_the_published_scripts(definition: str) -> None:
    records = [
        {"instruction": "Write the sum.", "input": "two and three", "output": "five"},
        {"instruction": "Write the list.", "input": "", "output": "one two\nthree"},
        {"instruction": "Write.", "input": "", "output": "..."},
        {"instruction": "Write this one. \n", "input": "with a blank\n", "output": "two and three"},
        {"instruction": "Write.", "input": "", "output": "one two three. " * 300},
        {"instruction": "Write. " * 900, "input": "", "output": "too long"},
    ]
    ours, theirs = compared(records, definition, "tiny")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert np.isnan(ours).tolist() == [False] * 4 + [definition == "cherry", True]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LLaMA with the tokenizer of its family: a blank before the first word, BOS in front."""
    import string

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    folder = tmp_path_factory.mktemp("llama")
    letters = list(string.ascii_letters + string.digits + string.punctuation)
    merges = [
        *(("▁", letter) for letter in letters),
        ("Y", "e"),
        ("Ye", "s"),
        ("o", "n"),
        ("t", "h"),
        ("th", "e"),
    ]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{code:02X}>" for code in range(256))]
    words = dict.fromkeys([*special, "▁", *letters, *(one + two for one, two in merges)])
    vocab = {word: at for at, word in enumerate(words)}
    LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(vocab), bos_token_id=1, eos_token_id=2, initializer_range=0.2, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("definition", ["cherry", "superfilter"])
def test_the_ratio_is_the_published_scripts_with_a_llama(definition: str, llama: str) -> None:
    records = [
        {"instruction": "Say it.", "input": given, "output": said}
        for given, said in (("", "Yes"), ("in French", "No."), ("", " the sun"), ("", "Paris is the one\n"))
    ]
    ours, theirs = compared(records, definition, llama)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


LONG = "Write. " * 900


@pytest.mark.parametrize(
    ("definition", "asked", "said", "reason"),
    [
        ("superfilter", "Sign.", "one", "the response is one token, which nothing"),
        ("superfilter", LONG, "one two", "no response within 1,024"),
        ("cherry", LONG, "one two", "no response within 512 tokens"),
        ("cherry", "Write.", "one two three. " * 300, "longer than 512 tokens, prompt and"),
    ],
)
def test_a_row_without_a_ratio_has_its_own_reason(
    definition: Any, asked: str, said: str, reason: str
) -> None:
    records = [{"instruction": "Write.", "output": "one two three"}, {"instruction": asked, "output": said}]
    made = IFD(model="tiny", definition=definition, cut=0.0, dtype="float32")
    found = made.score(Pool(Dataset.from_rows(records)))
    assert found.reasons is not None
    assert found.reasons[1].startswith(reason)
    assert found.reasons[0].startswith("ratio")


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["cherry", "superfilter"])
def test_the_ratio_is_the_published_scripts_on_real_rows(test_data: Path, definition: str) -> None:
    alpaca = json.loads((test_data / "alpaca/alpaca_data.json").read_text(encoding="utf-8"))
    usable = [row for row in alpaca if row["output"].strip()]
    short = sorted(usable, key=lambda row: len(row["output"]))[:10]
    seams = [alpaca[at] for at in (42, 49, 77, 231)]  # a token lies across ":" and the response
    records = [*short, *seams, *random.Random(0).sample(usable, 36)]
    ours, theirs = compared(records, definition, "smollm2")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    measured = np.isfinite(ours)
    assert measured[-40:].all()
    assert measured.all() or definition == "superfilter"  # one token alone is predicted by nothing


@pytest.mark.slow
@pytest.mark.parametrize(("template", "least"), [("published", 0.92), ("auto", 0.97)])
def test_a_low_ratio_separates_clean_from_swapped_responses(
    test_data: Path, template: Any, least: float
) -> None:
    from sklearn.metrics import roc_auc_score

    rng = random.Random(0)
    alpaca = json.loads((test_data / "alpaca/alpaca_data.json").read_text(encoding="utf-8"))
    short = [r for r in alpaca if 0 < len(r["output"]) < 250 and len(r["instruction"] + r["input"]) < 250]
    chosen = rng.sample(short, 400)
    responses = [r["output"] for r in chosen]
    swapped = np.arange(400) < 200
    responses[:200] = responses[1:200] + responses[:1]
    rows = [
        example(i, "\n\n".join(filter(None, (r["instruction"], r["input"]))), said)
        for i, (r, said) in enumerate(zip(chosen, responses, strict=True))
    ]
    made = IFD(model="smollm2", cut=0.0, keep="lowest", template=template)
    assert roc_auc_score(~swapped, made.score(Pool(Dataset.from_rows(rows))).values) >= least
