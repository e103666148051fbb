from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.embed.losses import LOSSES
from dfilter.errors import InputError, SettingsError
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


def prompt_of(record: dict[str, str], definition: str) -> str:
    """A row's prompt as the papers' scripts fill it in, from the columns as they are."""
    asked, given = record["instruction"], record["input"]
    if definition == "superfilter":
        return f"{asked}\n{given}\n" if given != "" else f"{asked}\n"
    head = ALPACA_HEAD.format(paired=ALPACA_PAIRED if given != "" else "")
    return f"{head}\n\n### Instruction:\n{asked}\n\n" + (
        f"### Input:\n{given}\n\n### Response:" if given != "" else "### Response:"
    )


def losses_of(text: str, begin: int, most: int, model: Any, tokenizer: Any) -> list[float]:
    """The losses of a text's tokens from behind its first ``begin`` characters, cut as the scripts cut it."""
    import torch

    ids = tokenizer.encode(text, return_tensors="pt", truncation=True, max_length=most)
    start = len(tokenizer.encode(text[:begin])) if begin else 0
    with torch.no_grad():
        logits = torch.log_softmax(model(ids).logits[0], -1)
    return [-logits[at - 1, ids[0, at]].item() for at in range(max(start, 1), ids.shape[1])]


def published(record: dict[str, str], definition: str, model: Any, tokenizer: Any) -> float:
    """The ratio as the papers' scripts compute it: whole texts, the response found in them, one by one.

    Cherry's rows beyond its window are left out, as the paper says, which its script means to do.
    """
    prompt, said = prompt_of(record, definition), record["output"]
    limit = min(512 if definition == "cherry" else 1_024, model.config.max_position_embeddings)
    prompted = losses_of(prompt + said, len(prompt), limit, model, tokenizer)
    if definition == "cherry":
        opening = "### Response:"
        alone = losses_of(opening + said, len(opening), limit, model, tokenizer)
        if len(tokenizer.encode(prompt + said)) > limit or not alone or not prompted:
            return float("nan")
        return float(np.mean(prompted) / np.mean(alone))
    room = limit - len(tokenizer.encode(prompt, truncation=True, max_length=limit)) + 1
    alone = losses_of(said, 0, room, model, tokenizer)
    if not prompted or not alone:
        return float("nan")
    return float(np.exp(np.mean(prompted)) / np.exp(np.mean(alone)))


def compared(records: list[dict[str, str]], definition: str, name: str) -> tuple[Any, Any]:
    """The product's ratios and the scripts', of rows of Alpaca's shape."""
    filter_ = IFD(name, definition=definition, cut=0.0, dtype="float32")  # type: ignore[arg-type]
    ours = filter_.score(Pool(Dataset.from_rows(records))).values
    model, tokenizer = load_causal(name, dtype="float32", device="cpu")
    return ours, np.array([published(record, definition, model, tokenizer) for record in records])


def record(asked: str, given: str, said: str) -> dict[str, str]:
    return {"instruction": asked, "input": given, "output": said}


RECORDS = [
    record("Write the sum.", "two and three", "five of them"),
    record("Write the list.", "", "one two\nthree"),
    record("Write.  \n", "  two\n", " five of them "),  # white space is part of a column
    record("Write. ", " \n", "with an input of white space"),
    record("Write.", "", "..."),
    record("Write the name of it.", "", "no"),
]
CUT, FILLED = record("Write it. " * 9, "", "the end of it " * 80), record("Write it. " * 60, "", "too long")
WIDE, WIDER = (record("Write it. " * 90, "", "the end of it " * times) for times in (30, 200))


KINDS = (
    "llama", "llama, legacy", "byte level", "byte level, one in front", "byte level, two in front", "opt",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_the_published_scripts(kind: str, tokenizers: ModuleType, tmp_path: Path) -> None:
    name = tokenizers.save_model(tmp_path / "model", tokenizers.KINDS[kind](), positions=256)
    for definition in ("cherry", "superfilter"):
        ours, theirs = compared([*RECORDS, CUT, FILLED], definition, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert np.isfinite(ours[:5]).all()
        assert np.isnan(ours[6:]).tolist() == [definition == "cherry", True]


def test_the_scripts_windows_are_512_and_1024_tokens(tokenizers: ModuleType, tmp_path: Path) -> None:
    name = tokenizers.save_model(tmp_path / "model", tokenizers.byte_level("<|im_start|>"))
    for definition in ("cherry", "superfilter"):
        ours, theirs = compared([RECORDS[0], WIDE, WIDER], definition, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert np.isnan(ours).tolist() == [False, *[definition == "cherry"] * 2]


@pytest.mark.parametrize(
    ("kind", "definition", "odd", "why"),
    [
        ("byte level", "superfilter", record("Say it.", "", "no"), "is one token, which nothing predicts"),
        ("llama", "superfilter", record("Say it. " * 900, "", "no"), "no response within 1,024 tokens"),
        ("llama", "cherry", record("Say it.", "", "-"), "joins what stands before it in one token"),
        ("llama", "cherry", record("Say it. " * 900, "", "no"), "no response within 512 tokens"),
        ("llama", "cherry", record("Say it.", "", "-" * 600), "longer than 512 tokens, prompt and response"),
    ],
)
def test_a_row_without_a_ratio_says_why(
    kind: str, definition: Any, odd: dict[str, str], why: str, tokenizers: ModuleType, tmp_path: Path
) -> None:
    name = tokenizers.save_model(tmp_path / "model", tokenizers.KINDS[kind]())
    scores = IFD(name, definition=definition, cut=0.0).score(Pool(Dataset.from_rows([RECORDS[0], odd])))
    assert np.isnan(scores.values).tolist() == [False, True]
    assert scores.reasons is not None
    assert why in scores.reasons[1]
    with pytest.raises(InputError, match=f"none of 1 rows; of 1: .*{why}"):
        IFD(name, definition=definition).score(Pool(Dataset.from_rows([odd])))


def test_a_loss_of_nothing_is_not_called_a_long_row() -> None:
    scores = IFD("tiny").score(Known([1.0, 1.0], [0.0, 1.0]))  # type: ignore[arg-type]
    assert scores.reasons == [
        "its response costs the model nothing alone, so there is no ratio",
        "ratio 1.000",
    ]


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
