"""A sentence-transformers encoder: a folder of modules becomes vectors.

``SentenceTransformer.encode`` makes the vectors, so that prompts, pooling, dense layers, static embeddings
and whatever else a folder holds count as they do there. Here stands what it leaves to the caller: batches of
similar length, what runs in which number format, and where a text's tokens lie.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.embed.batches import token_batches
from dfilter.embed.device import Placement
from dfilter.embed.passages import Spans
from dfilter.errors import ModelError, SettingsError
from dfilter.models import quiet_transformers, verified
from dfilter.window import BOUNDLESS, window

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

# Padded tokens a batch. On two cores 1,024 to 4,096 ran equally fast and 8,192 a tenth slower, the
# activations leaving the caches; an accelerator wants to be filled.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 131_072
LETTER = "a"  # a text of which every tokenizer makes something


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder. It is shared: nobody changes it."""

    model: SentenceTransformer
    placement: Placement

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def window(self) -> int:
        """Tokens that the encoder reads at once, its prompt and special tokens included."""
        tokenizer = self.model.tokenizer
        own = getattr(tokenizer, "model_max_length", None)
        if own is None:  # a static embedding's tokenizer, which may cut
            own = (getattr(tokenizer, "truncation", None) or {}).get("max_length", BOUNDLESS)
        return int(min(own, BOUNDLESS))

    def prompt(self, asked: str | None) -> str:
        """Return what is put in front of every text.

        Args:
            asked: none takes the encoder's own default; one of its own prompts by name; else the text itself.
        """
        known = self.model.prompts
        if asked is None:
            return str(known.get(self.model.default_prompt_name or "") or "")
        return str(known[asked]) if known.get(asked) else asked

    def room(self, prompt: str, limit: int) -> int:
        """Return how many of a window's tokens a prompt and special tokens leave to the text.

        Raises:
            SettingsError: they leave none.
        """
        if limit >= BOUNDLESS:
            return limit
        shown = int(self.model.preprocess([LETTER], prompt=prompt)["input_ids"].shape[-1])
        if shown >= limit:
            raise SettingsError(
                f"embedding: a window of {limit} tokens leaves none to the rows behind the prompt '{prompt}' "
                "and the special tokens. Shorten the prompt, or raise max_tokens."
            )
        return limit - shown + len(self.spans([LETTER])[0])

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """Return where the tokens of every text lie, uncut and without special tokens."""
        tokenizer: Any = self.model.tokenizer
        if not hasattr(tokenizer, "model_max_length"):
            return _raw_spans(tokenizer, texts)
        fast = bool(getattr(tokenizer, "is_fast", False))
        found = tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_offsets_mapping=fast,
            return_attention_mask=False,
            verbose=False,
        )
        offsets = found["offset_mapping"] if fast else [None] * len(texts)
        unknown = tokenizer.unk_token_id
        return [
            Spans.of(text, ids, places, unknown)
            for text, ids, places in zip(texts, found["input_ids"], offsets, strict=True)
        ]

    def encode(self, texts: Sequence[str], prompt: str, limit: int) -> NDArray[np.float32]:
        """Return the vectors of texts as the encoder itself makes them, (n, d) float32.

        Args:
            texts: (n,) what is read.
            prompt: what is put in front of every text.
            limit: longer texts are cut to so many tokens, prompt and special tokens included.
        """
        out = np.empty((len(texts), self.width), np.float32)
        how: dict[str, Any] = {}
        if limit < self.window:
            how = {"processing_kwargs": {"text": {"max_length": limit, "truncation": True}}}
        budget = CPU_TOKENS if self.placement.on_cpu else ACCELERATOR_TOKENS
        added = len(self.spans([prompt])[0]) + 2 if texts else 0
        sizes = [min(len(lie) + added, limit) for lie in self.spans(texts)] if texts else []
        for batch in token_batches(sizes, budget):
            vectors = self.model.encode(
                [texts[at] for at in batch.tolist()],
                prompt=prompt,
                batch_size=len(batch),
                show_progress_bar=False,
                convert_to_tensor=True,
                **how,
            )
            out[batch] = vectors.float().cpu().numpy()
        return out


def _raw_spans(tokenizer: Any, texts: Sequence[str]) -> list[Spans]:
    """As :meth:`Encoder.spans`, of a tokenizer without transformers' wrapping; what it cuts is kept."""
    cut, name = tokenizer.truncation, getattr(tokenizer.model, "unk_token", None)
    unknown = tokenizer.token_to_id(name) if name else None
    tokenizer.no_truncation()
    try:
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    finally:
        if cut:
            tokenizer.enable_truncation(**cut)
    return [Spans.of(text, one.ids, one.offsets, unknown) for text, one in zip(texts, found, strict=True)]


def load_encoder(model: str, sha: str, placement: Placement, pooling: str) -> Encoder:
    """Load an encoder once per process.

    Args:
        model: its name; see :mod:`dfilter.models`.
        sha: what it is, so that a changed folder is loaded anew.
        placement: where and in which number format it runs.
        pooling: "model", or how the last hidden states are pooled instead of what the folder says.

    Raises:
        ModelError: the weights cannot be found, or are no encoder's of texts.
        SettingsError: another pooling is asked of an encoder without hidden states.
    """
    found = _load(model, sha, placement)
    return found if pooling == "model" else _pooled(found, model, pooling)


@lru_cache(maxsize=2)
def _load(model: str, _sha: str, placement: Placement) -> Encoder:
    """Two are kept, so that comparing an encoder with another does not reload both."""
    from sentence_transformers import SentenceTransformer

    folder = verified(model).path
    _refuse_pickles(model, folder)
    try:  # of a folder that is no encoder's, anything may be raised
        with quiet_transformers(), _quiet_sentences():
            loaded = SentenceTransformer(
                str(folder),
                device=placement.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": placement.torch_dtype, "use_safetensors": True},
            )
            loaded.eval()
            config = getattr(getattr(loaded[0], "model", None), "config", None)
            if config is not None and (loaded.max_seq_length or BOUNDLESS) > window(config):
                loaded.max_seq_length = window(config)  # there are positions for no more
            # After the transformer everything runs in float32: rounding each pooled vector to bf16 would cost
            # more accuracy than the whole forward pass does.
            for module in list(loaded)[1:]:
                module.float()
            loaded[0].register_forward_hook(_in_float32)
            loaded.encode([LETTER], show_progress_bar=False)
            Encoder(loaded, placement).spans([LETTER])
    except Exception as error:
        raise ModelError(
            f"'{model}' in {folder} is no encoder of texts that can be loaded: {error}"
        ) from error
    log.info("%s runs on %s in %s", model, placement.device, placement.dtype)
    return Encoder(loaded, placement)


def _pooled(encoder: Encoder, model: str, pooling: str) -> Encoder:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first: Any = encoder.model[0]
    if getattr(first, "module_output_name", "") != "token_embeddings":
        raise SettingsError(
            f"embedding: pooling = '{pooling}' pools hidden states, and '{model}' gives none; "
            "use pooling = 'model'."
        )
    modules = [first, Pooling(first.get_embedding_dimension(), pooling)]
    own = encoder.model
    made = SentenceTransformer(
        modules=modules, device=encoder.placement.device, prompts={n: p or "" for n, p in own.prompts.items()}
    )
    made.default_prompt_name = own.default_prompt_name
    return Encoder(made.eval(), encoder.placement)


def _in_float32(_module: Any, _inputs: Any, features: dict[str, Any]) -> None:
    for name in ("token_embeddings", "sentence_embedding", "cls_token_embeddings"):
        if name in features:
            features[name] = features[name].float()
    if "all_layer_embeddings" in features:
        features["all_layer_embeddings"] = tuple(part.float() for part in features["all_layer_embeddings"])


def _refuse_pickles(model: str, folder: Path) -> None:
    """Refuse what sentence-transformers would unpickle: a model is known by its safetensors."""
    pickled = sorted(f for f in folder.rglob("pytorch_model*.bin") if not any(f.parent.glob("*.safetensors")))
    if pickled:
        raise ModelError(
            f"The layer {pickled[0].parent.name} of '{model}' is pickled ({pickled[0].name}), which is never "
            "read; convert it to model.safetensors first."
        )


@contextlib.contextmanager
def _quiet_sentences() -> Iterator[None]:
    """Keep the library's advice off the terminal; errors still show."""
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
