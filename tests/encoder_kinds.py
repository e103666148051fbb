"""Small sentence encoders of every kind, random weights, written as sentence-transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfilter.types import Example, Message

WORDS = [
    *("the", "sum", "of", "two", "numbers", "is", "written", "as", "one", "more", "than", "a", "list"),
    *("sorted", "by", "length", "query", ":", "passage"),
]
WIDTH = 32


def rows(count: int, seed: int = 0, words: Sequence[str] = WORDS[:16], longest: int = 40) -> list[Example]:
    """Return rows of random words."""
    rng = np.random.default_rng(seed)

    def say() -> str:
        return " ".join(rng.choice(words, size=rng.integers(1, longest)))

    return [Example(str(i), (Message("user", say()), Message("assistant", say())), {}) for i in range(count)]


def raw_tokenizer() -> Any:
    """Return a tokenizer of whole words that writes [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(WORDS))])}
    raw = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return raw


def write_bert(folder: Path, positions: int = 512) -> Path:
    """Write a transformer that knows nothing of sentence-transformers, like bert-base-uncased."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    raw = raw_tokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=raw.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.5,  # as far from one another as a trained model's vectors are
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def write(folder: Path, kind: str) -> Path:
    """Write an encoder of a kind of :data:`KINDS`."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(1)
    made = KINDS[kind](folder)
    if isinstance(made, SentenceTransformer):
        made.save(str(folder / kind))
    return folder / kind


def _transformer(folder: Path) -> Any:
    from sentence_transformers.sentence_transformer.modules import Transformer

    return Transformer(str(write_bert(folder / "bert")))


def _pooled(*modes: str, **how: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        include = how.get("include_prompt", True)
        modules = [_transformer(folder), Pooling(WIDTH, modes, include_prompt=include), *_more(how, modes)]
        prompts = {"query": "query : ", "passage": "passage : "} if how.get("default") else {}
        return SentenceTransformer(
            modules=modules,
            prompts=prompts,
            default_prompt_name=how.get("default"),
            truncate_dim=how.get("truncate"),
            device="cpu",
        )

    return build


def _more(how: dict[str, Any], modes: Sequence[str]) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    parts = {"dense": lambda: Dense(WIDTH * len(modes), 24), "norm": lambda: LayerNorm(24), "unit": Normalize}
    return [parts[name]() for name in how.get("then", ())]


def _layers(folder: Path) -> Any:
    """A weighted sum of all layers' hidden states, then the mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling

    first = _transformer(folder)
    first.model.config.output_hidden_states = True
    return SentenceTransformer(
        modules=[first, WeightedLayerPooling(WIDTH, 2, 1), Pooling(WIDTH, "mean")], device="cpu"
    )


def _static(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    del folder
    return SentenceTransformer(modules=[StaticEmbedding(raw_tokenizer(), embedding_dim=16)], device="cpu")


def _decoder(folder: Path) -> Any:
    """A causal language model, padded on the left, whose last token's state is the vector."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from dfilter.models import resolve

    first = Transformer(str(resolve("tiny").path), processor_kwargs={"padding_side": "left"})
    first.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    return SentenceTransformer(modules=[first, Pooling(64, "lasttoken")], device="cpu")


def _in_a_subfolder(folder: Path) -> None:
    """As sentence-transformers 2 wrote it: the weights in 0_Transformer, nothing but JSON above."""
    place = folder / "weights in a subfolder"
    _pooled("mean")(folder).save(str(place))
    part = place / "0_Transformer"
    part.mkdir()
    above = {"modules.json", "config_sentence_transformers.json", "README.md"}
    for file in [path for path in place.iterdir() if path.is_file() and path.name not in above]:
        file.rename(part / file.name)
    listed = json.loads((place / "modules.json").read_text())
    listed[0]["path"] = part.name
    (place / "modules.json").write_text(json.dumps(listed))


KINDS: dict[str, Callable[[Path], Any]] = {
    "mean": _pooled("mean"),
    "cls": _pooled("cls"),
    "max": _pooled("max"),
    "mean over the root of the length": _pooled("mean_sqrt_len_tokens"),
    "later tokens weigh more": _pooled("weightedmean"),
    "last token": _pooled("lasttoken"),
    "two poolings side by side": _pooled("cls", "mean"),
    "dense, layer norm, unit length": _pooled("mean", then=("dense", "norm", "unit")),
    "cut to 8 numbers": _pooled("mean", then=("unit",), truncate=8),
    "default prompt": _pooled("mean", default="query"),
    "prompt that is not pooled": _pooled("mean", default="query", include_prompt=False),
    "last token behind a prompt that is not pooled": _pooled(
        "lasttoken", default="passage", include_prompt=False
    ),
    "all layers weighted": _layers,
    "static": _static,
    "decoder": _decoder,
    "weights in a subfolder": _in_a_subfolder,
}
