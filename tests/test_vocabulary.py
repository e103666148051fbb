"""A row with a token that the model has no embedding for costs its own value, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfilter import models
from dfilter.chat import Encoded
from dfilter.data.dataset import Dataset
from dfilter.embed.hidden import HiddenState
from dfilter.embed.losses import ResponseLoss
from dfilter.errors import InputError
from dfilter.eval.exact import Exact
from dfilter.eval.generation import Decoding, Refusal, generate
from dfilter.eval.heldout import Heldout
from dfilter.eval.mmlu import MMLU
from dfilter.filters.ifd import IFD
from dfilter.filters.less import LESS
from dfilter.filters.rds import RDSPlus
from dfilter.llm.answers import STATUSES
from dfilter.llm.judge import Judge, rate
from dfilter.llm.session import open_session
from dfilter.pool import Pool, Store
from dfilter.train.trainer import FineTune
from dfilter.types import Example, Message
from dfilter.window import BOUNDLESS, NOT_EMBEDDED, beyond, padding, readable, vocabulary

DECLINED = STATUSES.index("refused")
IMAGE = "image_soft_token"  # a word, as far as the tokenizer knows; a control token would be text in a row


def example(name: str, asked: str, said: str, system: str = "") -> Example:
    first = (Message("system", system),) if system else ()
    return Example(name, (*first, Message("user", asked), Message("assistant", said)), {})


ROWS = [
    example("plain", "name a colour", "red and blue"),
    example("asked", f"what does {IMAGE} mean", "an image"),
    example("other", "what now", "follow me"),
    example("said", "what stands for an image", f"it is {IMAGE} here"),
]
LOST = [False, True, False, True]


def saved(folder: Path, added: dict[str, Any]) -> str:
    """The tiny model, and a tokenizer with more tokens than it has embeddings for."""
    model, tokenizer = models.load_causal("tiny", device="cpu")
    tokenizer.add_special_tokens(added)
    tokenizer.add_tokens([] if added else [IMAGE])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > model.get_input_embeddings().weight.shape[0] == vocabulary(model.config)
    return str(folder)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
        return saved(tmp_path_factory.mktemp("wide"), {})


def pool(tmp_path: Path, rows: list[Example]) -> Pool:
    store = Store(tmp_path / "store")
    return Pool(Dataset.from_rows(rows), target=Pool(Dataset.from_rows(ROWS[:1]), store=store), store=store)


@pytest.mark.parametrize(
    ("ids", "size", "wanted"),
    [([], 1, False), ([0], 1, False), ([1], 1, True), ([0, 5, 2], 5, True), ([4], BOUNDLESS, False)],
)
def test_a_token_lies_beyond_a_vocabulary_of_its_number(ids: list[int], size: int, wanted: bool) -> None:
    assert beyond(ids, size) == wanted
    (row,) = readable([Encoded(ids, ids)], size)
    assert row == (Encoded([], [], NOT_EMBEDDED) if wanted else Encoded(ids, ids))


def test_a_vocabulary_is_that_of_the_text_part() -> None:
    from transformers import AutoConfig

    assert vocabulary(AutoConfig.for_model("gpt2", vocab_size=77)) == 77
    assert vocabulary(AutoConfig.for_model("gemma3", text_config={"vocab_size": 99})) == 99


@pytest.mark.parametrize("rows", [ROWS, ROWS[:2], [ROWS[1]], ROWS[3:]])
def test_signals_have_no_value_for_it_alone(wide: str, rows: list[Example]) -> None:
    lost = [IMAGE in row.prompt + row.response for row in rows]
    losses = ResponseLoss(wide, dtype="float32", device="cpu").compute(rows)
    vectors = HiddenState(wide, dtype="float32", device="cpu").compute(rows)
    assert np.isnan(losses["prompted"]).tolist() == np.isnan(vectors).all(axis=1).tolist() == lost
    kept = [row for row, out in zip(rows, lost, strict=True) if not out]
    if kept:
        known = np.flatnonzero(~np.array(lost))
        alone = ResponseLoss(wide, dtype="float32", device="cpu").compute(kept)
        np.testing.assert_allclose(losses["prompted"][known], alone["prompted"], atol=1e-5)


def test_a_system_prompt_that_all_rows_share_may_hold_it(wide: str) -> None:
    system = f"{IMAGE} " * 12
    rows = [example("a", "one", "two", system), example("b", "three", "four", system)]
    losses = ResponseLoss(wide, dtype="float32", device="cpu").compute(rows)
    assert np.isnan(losses["prompted"]).all()


def test_strategies_abstain_and_say_why(wide: str, tmp_path: Path) -> None:
    changes = {"lora_rank": 2, "batch": 2}
    for made in (
        IFD(wide, cut=0, template="auto", dtype="float32"),
        RDSPlus(wide, dtype="float32"),
        LESS(wide, warmup=0.5, epochs=1, overrides=changes, dtype="float32", device="cpu"),
    ):
        scores = made.score(pool(tmp_path, ROWS))
        assert np.isnan(scores.values).tolist() == LOST
        assert scores.reasons is not None
        assert [scores.reasons[at] for at in (1, 3)] == [NOT_EMBEDDED] * 2
    with pytest.raises(InputError, match=r"none of 2 rows.*no embedding"):
        RDSPlus(wide, dtype="float32").score(pool(tmp_path, [ROWS[1], ROWS[3]]))


def test_a_comparison_sets_it_aside_and_training_leaves_it_out(wide: str, tmp_path: Path) -> None:
    trainer = FineTune(wide, "quick", {"lora_rank": 2}, steps=1, dtype="float32")
    assert trainer.screen(pool(tmp_path, ROWS)) == {1: NOT_EMBEDDED, 3: NOT_EMBEDDED}
    told = json.loads((trainer.train(ROWS, tmp_path / "out", seed=0) / "training.json").read_text())
    assert told["skipped"] == ["asked", "said"]
    assert told["skipped_because"] == {NOT_EMBEDDED: 2}


def test_a_new_end_of_turn_token_brings_embeddings_for_all(tmp_path: Path) -> None:
    """The tiny tokenizer has an end-of-turn token; without one, lima gives the model a row for each."""
    folder = saved(tmp_path / "model", {})
    text = (Path(folder) / "tokenizer.json").read_text()
    for file in Path(folder).glob("*.json"):
        file.write_text(file.read_text().replace("<|im_end|>", "<|no_end|>"))
    assert "<|im_end|>" in text
    trainer = FineTune(folder, "lima", {"eot": True}, steps=1, template="turns", dtype="float32")
    assert trainer.screen(pool(tmp_path, ROWS)) == {}
    assert trainer.plan(ROWS, seed=0)[0].skipped == ()
    lora = FineTune(folder, "quick", {"eot": False}, steps=1, template="turns", dtype="float32")
    assert set(lora.screen(pool(tmp_path, ROWS))) == {1, 3}


def test_evaluations_give_it_no_value(wide: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    Dataset.from_rows(ROWS).write(file)
    held = Heldout(str(file), dtype="float32").evaluate(Path(wide))
    assert np.isnan(held.values).tolist() == LOST
    assert held.facts["not_shown"] == {"asked": NOT_EMBEDDED, "said": NOT_EMBEDDED}
    said = generate(wide, [row.messages[:-1] for row in ROWS], Decoding(max_new_tokens=3))
    assert [isinstance(found, Refusal) for found in said] == [False, True, False, False]
    asked = [{"id": row.id, "prompt": row.prompt, "answer": "x"} for row in ROWS]
    file.write_text("\n".join(map(json.dumps, asked)))
    found = Exact(str(file), decoding=Decoding(max_new_tokens=3)).evaluate(Path(wide))
    assert found.facts["not_shown"] == {"rows/asked": NOT_EMBEDDED}
    folder = tmp_path / "mmlu"
    folder.mkdir()
    (folder / "law_test.csv").write_text(f"plain,w,x,y,z,A\nwhat is {IMAGE},w,x,y,z,A\n")
    (folder / "law_dev.csv").write_text(f"an {IMAGE},w,x,y,z,A\n")
    for chat in (False, True):
        choices = MMLU(str(folder), shots=1, chat=chat).evaluate(Path(wide))
        assert choices.facts["not_shown"] == {"law/1": NOT_EMBEDDED}
        assert choices.facts["fewer_shots"] == 1  # the example holds it too


def test_a_local_judge_declines_it_alone(wide: str) -> None:
    judge = Judge(model=f"local:{wide}", mode="expected", min_mass=0.0)
    with open_session(judge.server) as session:
        found = rate(ROWS, judge, session=session)
    assert (found["status"] == DECLINED).tolist() == LOST  # the others are read, whatever it says to them


def test_padding_beyond_the_embedding_stops_nobody(tmp_path: Path) -> None:
    """Padding is masked, so the values are those of the model whose padding has an embedding."""
    folder = saved(tmp_path / "padded", {"pad_token": "[PAD]"})
    assert padding(models.load_tokenizer(folder), vocabulary(models.configuration(folder))) != 0
    rows = [ROWS[0], ROWS[2], example("long", "name a colour " * 9, "a longer reply than the others")]
    for signal in (ResponseLoss, HiddenState):
        ours, theirs = (signal(m, dtype="float32", device="cpu").compute(rows) for m in (folder, "tiny"))
        for field in ours.dtype.names or ("",):
            one, two = (found[field] if field else found for found in (ours, theirs))
            np.testing.assert_allclose(one, two, atol=1e-5)
    prompts = [row.messages[:-1] for row in rows]
    short = Decoding(max_new_tokens=4)
    assert generate(folder, prompts, short) == generate("tiny", prompts, short)
    trainer = FineTune(folder, "quick", {"lora_rank": 2}, steps=1, dtype="float32")
    trainer.train(rows, tmp_path / "out", seed=0)
    LESS(folder, warmup=1.0, epochs=1, overrides={"lora_rank": 2}, dtype="float32", device="cpu").score(
        pool(tmp_path, rows)
    )
    judge = Judge(model=f"local:{folder}", mode="expected", min_mass=0.0)
    with open_session(judge.server) as session:
        assert not (rate(rows, judge, session=session)["status"] == DECLINED).any()
