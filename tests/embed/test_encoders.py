"""An encoder is what sentence-transformers makes of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dfilter.embed.sentences import Embedding
from dfilter.errors import ModelError, SettingsError

KINDS = [
    "mean",
    "cls",
    "max",
    "mean over the root of the length",
    "later tokens weigh more",
    "last token",
    "two poolings side by side",
    "dense, layer norm, unit length",
    "cut to 8 numbers",
    "default prompt",
    "prompt that is not pooled",
    "last token behind a prompt that is not pooled",
    "all layers weighted",
    "static",
    "decoder",
    "weights in a subfolder",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def plain(model: Path, **settings: object) -> Embedding:
    """The view that sentence-transformers has: prompt and response in one text, cut at the window's end."""
    return Embedding(model=str(model), system=True, long="cut", normalize=False, device="cpu", **settings)  # type: ignore[arg-type]


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return np.einsum("ij,ij->i", ours, theirs, dtype=np.float64) / lengths


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_gives_what_encode_gives(folder: Path, encoders: ModuleType, kind: str) -> None:
    from sentence_transformers import SentenceTransformer

    assert set(KINDS) == set(encoders.KINDS)
    place = encoders.write(folder, kind)
    pool = encoders.rows(7)
    theirs = SentenceTransformer(str(place), device="cpu").encode([row.text for row in pool])
    ours = plain(place).compute(pool)
    assert ours.shape == theirs.shape
    assert cosines(ours, theirs).min() >= 0.9999
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    apart = cosines(theirs[:-1], theirs[1:])
    assert apart.min() < 0.999, "the encoder tells no rows apart, so the test could not fail"


def test_prompts_are_the_users_the_encoders_by_name_or_none(folder: Path, encoders: ModuleType) -> None:
    from sentence_transformers import SentenceTransformer

    place = encoders.write(folder, "default prompt")
    pool, theirs = encoders.rows(3), SentenceTransformer(str(place), device="cpu")
    texts = [row.text for row in pool]
    for asked, how in (
        (None, {}),
        ("", {"prompt": ""}),
        ("passage", {"prompt_name": "passage"}),
        ("one list : ", {"prompt": "one list : "}),
    ):
        ours = plain(place, prompt=asked).compute(pool)
        np.testing.assert_allclose(ours, theirs.encode(texts, **how), atol=1e-5)
    assert plain(place).spec() != plain(place, prompt="").spec()


def test_a_prompt_stands_before_every_piece_of_a_long_row(folder: Path, encoders: ModuleType) -> None:
    from sentence_transformers import SentenceTransformer

    place = encoders.write_bert(folder / "short", positions=24)
    (row,) = encoders.rows(1, words=["sum", "list", "two", "one"], longest=60, seed=5)
    signal = Embedding(model=str(place), long="chunks", prompt="query : ", normalize=False, device="cpu")
    assert signal.seen([row])["windows"][0] >= 2
    from dfilter.embed.encoder import load_encoder
    from dfilter.embed.passages import passages
    from dfilter.models import resolve

    encoder = load_encoder(str(place), resolve(str(place)).sha, signal.placement(), "model")
    assert encoder.window == 24
    text = signal.reads(row)[0]
    pieces = passages(text, encoder.spans([text])[0], encoder.room("query : ", 24))
    theirs = SentenceTransformer(str(place), device="cpu")
    theirs.max_seq_length = 24
    wanted = theirs.encode(pieces, prompt="query : ").mean(axis=0)
    np.testing.assert_allclose(signal.compute([row])[0], wanted, atol=1e-5)


def test_a_prompt_that_fills_the_window_is_refused(folder: Path, encoders: ModuleType) -> None:
    place = encoders.write_bert(folder / "narrow", positions=8)
    with pytest.raises(SettingsError, match="leaves none to the rows"):
        Embedding(model=str(place), prompt="the " * 6, device="cpu").compute(encoders.rows(1))


def test_an_encoder_of_any_length_takes_no_limit(folder: Path, encoders: ModuleType) -> None:
    place = encoders.write(folder, "static")
    assert Embedding(model=str(place)).seen(encoders.rows(1, longest=3))["windows"].tolist() == [1]
    with pytest.raises(SettingsError, match="reads texts of any length"):
        Embedding(model=str(place), max_tokens=4).compute(encoders.rows(1))
    with pytest.raises(SettingsError, match="gives none"):
        Embedding(model=str(place), pooling="cls").compute(encoders.rows(1))


@pytest.mark.parametrize("layer", ["2_Dense", "0_Transformer"])
def test_pickled_layers_are_refused_wherever_they_lie(folder: Path, encoders: ModuleType, layer: str) -> None:
    import torch

    kind = "weights in a subfolder" if layer == "0_Transformer" else "dense, layer norm, unit length"
    place = encoders.write(folder / layer, kind)
    (place / layer / "model.safetensors").unlink()
    torch.save({}, place / layer / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        plain(place).compute(encoders.rows(1))


@pytest.mark.parametrize("kind", ["own_code.Module", "sentence_transformers.models.Asym"])
def test_what_is_no_encoder_of_texts_is_refused(folder: Path, encoders: ModuleType, kind: str) -> None:
    place = encoders.write(folder / kind, "mean")
    listed = json.loads((place / "modules.json").read_text())
    listed[0]["type"] = kind
    (place / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ModelError, match="no encoder of texts"):
        plain(place).compute(encoders.rows(1))


def test_an_encoder_that_tells_no_tokens_is_refused(folder: Path, encoders: ModuleType) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    words = encoders.WORDS[:16]
    first = WordEmbeddings(WhitespaceTokenizer(words), np.ones((16, 4), np.float32))
    SentenceTransformer(modules=[first, Pooling(4, "mean")], device="cpu").save(str(folder / "words"))
    with pytest.raises(ModelError, match="no encoder of texts"):
        plain(folder / "words").compute(encoders.rows(1))
