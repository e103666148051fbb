"""No row is read beyond a model's positions, whoever reads it; what does not fit is cut, or says so."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfilter import models
from dfilter.chat import render
from dfilter.data.dataset import Dataset
from dfilter.embed.hidden import HiddenState
from dfilter.embed.losses import ResponseLoss
from dfilter.embed.warmup import drawn
from dfilter.errors import InputError
from dfilter.eval.generation import Decoding, generate
from dfilter.eval.heldout import Heldout
from dfilter.filters.ifd import IFD
from dfilter.filters.less import LESS
from dfilter.filters.rds import RDS, RDSPlus
from dfilter.llm.judge import Judge, rate
from dfilter.llm.session import open_session
from dfilter.pool import Pool, Store
from dfilter.train.trainer import FineTune
from dfilter.types import Example, Message
from dfilter.window import BOUNDLESS, window, window_of

POSITIONS = 48
SMALL = {
    "gpt2": {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 1, "n_head": 2},
    "opt": {
        "max_position_embeddings": POSITIONS, "hidden_size": 32, "word_embed_proj_dim": 32,
        "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    },
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", SMALL)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random models of families with learnt positions, with the tiny one's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
        tokenizer = models.load_tokenizer("tiny")
        made = {}
        for kind, shape in SMALL.items():
            words = {"vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
            config = AutoConfig.for_model(kind, **shape, **words)
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(kind)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            tokenizer.chat_template = NO_SYSTEM
            tokenizer.save_pretrained(folder)
            made[kind] = str(folder)
    return made


def example(name: str, asked: str, said: str, system: str = "") -> Example:
    first = (Message("system", system),) if system else ()
    return Example(name, (*first, Message("user", asked), Message("assistant", said)), {})


ROWS = [
    example("short", "two words", "the answer"),
    example("long", "make two", "the answer is " * 40),  # its end is cut
    example("full", "the question " * 40, "no"),  # its prompt fills the window
    example("system", "two words", "the answer", system="be kind"),  # its template has none
    example("other", "what now", "follow me"),
]


def pool(tmp_path: Path) -> Pool:
    store = Store(tmp_path / "store")
    return Pool(Dataset.from_rows(ROWS), target=Pool(Dataset.from_rows(ROWS[:1]), store=store), store=store)


def shorter(row: Example, folder: str) -> Any:
    return render(row.messages, models.load_tokenizer(folder), max_tokens=POSITIONS)


@KINDS
def test_a_model_reads_as_many_tokens_as_its_window_and_no_more(kind: str, folders: dict[str, str]) -> None:
    import torch

    model, tokenizer = models.load_causal(folders[kind], device="cpu")
    assert window(model.config, tokenizer) == window_of(folders[kind]) == POSITIONS
    model(torch.ones(1, POSITIONS, dtype=torch.long))
    with pytest.raises(IndexError):
        model(torch.ones(1, POSITIONS + 1, dtype=torch.long))


def test_a_tokenizers_figure_counts_where_the_model_has_none() -> None:
    from transformers import AutoConfig

    tokenizer = models.load_tokenizer("tiny")
    assert window(AutoConfig.for_model("bloom"), tokenizer) == 2048
    tokenizer.model_max_length = int(1e30)  # what transformers writes where it does not know
    assert window(AutoConfig.for_model("bloom"), tokenizer) == BOUNDLESS
    assert window(AutoConfig.for_model("llama", max_position_embeddings=77), tokenizer) == 77
    assert window(AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 99})) == 99
    assert window(AutoConfig.for_model("roberta", max_position_embeddings=514, pad_token_id=1)) == 512


@KINDS
def test_losses_are_those_of_rows_that_fit_into_the_window(kind: str, folders: dict[str, str]) -> None:
    signal = ResponseLoss(folders[kind], max_tokens=2_048, dtype="float32", device="cpu")
    found = signal.compute(ROWS)
    first = shorter(ROWS[0], folders[kind]).trained - 1  # without the end token
    assert found["tokens"].tolist() == [first, 0, 0, 0, first]
    assert np.isnan(found["prompted"]).tolist() == [False, True, True, True, False]
    cut = ResponseLoss(folders[kind], max_tokens=POSITIONS, dtype="float32", device="cpu").compute(ROWS)
    np.testing.assert_array_equal(found["prompted"], cut["prompted"])


@KINDS
def test_ifd_abstains_alone_and_says_why(kind: str, folders: dict[str, str], tmp_path: Path) -> None:
    made = IFD(folders[kind], cut=0, template="auto", max_tokens=2_048, dtype="float32")
    scores = made.score(pool(tmp_path))
    assert np.isnan(scores.values).tolist() == [False, True, True, True, False]
    assert scores.facts["not_measured"] == 3
    assert scores.reasons is not None
    assert scores.reasons[1] == f"longer than {POSITIONS} tokens, prompt and response together"
    assert scores.reasons[2] == f"no response within {POSITIONS} tokens"
    assert "no system here" in scores.reasons[3]
    with pytest.raises(InputError, match=r"none of 2 rows.*no response within"):
        made.score(Pool(Dataset.from_rows(ROWS[2:4]), store=Store(tmp_path / "store")))


@KINDS
def test_rds_abstains_alone_where_a_row_cannot_be_shown(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    vectors = HiddenState(folders[kind], dtype="float32", device="cpu").compute(ROWS)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, False, False, True, False]
    for made in (RDS(folders[kind], dtype="float32"), RDSPlus(folders[kind], dtype="float32")):
        scores = made.score(pool(tmp_path))
        assert np.isnan(scores.values).tolist() == [False, False, False, True, False]
        assert scores.reasons is not None
        assert "no system here" in scores.reasons[3]
        assert scores.facts["not_shown"] == 1
    bad = Pool(Dataset.from_rows(ROWS[3:4]), target=pool(tmp_path).target, store=pool(tmp_path).store)
    with pytest.raises(InputError, match=r"none of 1 rows.*no system here"):
        RDS(folders[kind], dtype="float32").score(bad)


@KINDS
def test_heldout_loss_names_the_rows_that_have_no_value(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "held.jsonl"
    Dataset.from_rows(ROWS).write(file)
    found = Heldout(str(file), dtype="float32").evaluate(Path(folders[kind]))
    assert [math.isnan(v) for v in found.values] == [False, False, True, True, False]
    assert found.facts["not_shown"] == {
        "full": f"no response within {POSITIONS} tokens",
        "system": "the model's chat template refuses it: no system here",
    }
    alone = tmp_path / "alone.jsonl"
    Dataset.from_rows(ROWS[:1]).write(alone)
    assert Heldout(str(alone), dtype="float32").evaluate(Path(folders[kind])).values[0] == pytest.approx(
        found.values[0], abs=1e-5
    )
    Dataset.from_rows(ROWS[2:4]).write(alone)
    with pytest.raises(InputError, match="no system here"):
        Heldout(str(alone)).evaluate(Path(folders[kind]))


@KINDS
@pytest.mark.parametrize("recipe", ["lima", "alpaca"])
def test_training_skips_what_it_cannot_show_and_names_it(
    kind: str, recipe: str, folders: dict[str, str], tmp_path: Path
) -> None:
    trainer = FineTune(folders[kind], recipe, {"keep_epochs": []}, steps=1, dtype="float32")
    plan, encoded = trainer.plan(ROWS, seed=0)
    assert max(np.diff(encoded.offsets)) <= POSITIONS
    assert plan.skipped == ("full", "system")
    assert trainer.screen(pool(tmp_path)) == {
        2: f"no response within {POSITIONS} tokens",
        3: "the model's chat template refuses it: no system here",
    }
    if recipe == "alpaca":
        told = json.loads((trainer.train(ROWS, tmp_path / "out", seed=0) / "training.json").read_text())
        assert (told["rows"], told["skipped"]) == (3, ["full", "system"])
        assert set(told["skipped_because"].values()) == {1}
        with pytest.raises(InputError, match="2 of 2 rows"):
            trainer.train(ROWS[2:4], tmp_path / "none", seed=0)


def test_gradients_stay_within_the_window_whatever_the_warm_up_draws(
    folders: dict[str, str], tmp_path: Path
) -> None:
    changes = {"lora_rank": 2, "batch": 2}
    made = LESS(folders["opt"], warmup=0.2, epochs=1, overrides=changes, dtype="float32", device="cpu")
    asked = pool(tmp_path)
    lost = {2, 3}  # a warm-up of one row drew one of these, and could train on none
    seed = next(seed for seed in range(99) if {*drawn(asked.rows, 0.2, seed).tolist()} <= lost)
    scores = made.score(replace(asked, seed=seed))
    assert np.isnan(scores.values).tolist() == [False, False, True, True, False]
    assert scores.reasons is not None
    assert scores.reasons[2] == f"no response within {POSITIONS} tokens"
    assert "no system here" in scores.reasons[3]


@KINDS
def test_an_answer_and_its_prompt_share_the_window(kind: str, folders: dict[str, str]) -> None:
    prompts = [row.messages[:-1] for row in ROWS]
    for new in (8, 2 * POSITIONS):
        said = generate(folders[kind], prompts, Decoding(max_new_tokens=new))
        assert [isinstance(text, str) for text in said] == [True, True, False, False, True]


@KINDS
def test_a_local_judge_declines_alone(kind: str, folders: dict[str, str]) -> None:
    judge = Judge(model=f"local:{folders[kind]}", mode="expected", min_mass=0.0)  # it opens by a system turn
    with open_session(judge.server) as session:
        found = rate(ROWS, judge, session=session)
        assert session.facts()["calls"] == len(ROWS)
    assert np.isnan(found["value"]).all()
