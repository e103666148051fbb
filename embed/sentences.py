"""Sentence embeddings of rows by a sentence-transformers encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.embed.batches import pad, token_batches
from dfilter.embed.device import DTYPES, Placement, place
from dfilter.errors import ModelError, SettingsError
from dfilter.identity import ANYHOW, WEIGHTS, spec_of
from dfilter.models import quiet_transformers, resolve, verified
from dfilter.tolerance import lengths
from dfilter.types import Example, Json

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

# Padded tokens a batch. On two cores 1,024 to 4,096 ran equally fast and 8,192 a tenth slower, the
# activations leaving the caches; an accelerator wants to be filled.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 131_072
# Length of the difference as a share of the vector's own, in multiples of the format's rounding. Batches of
# one against batches of many, MiniLM, 96 Alpaca rows: at most 0.0076 in bf16 (0.023 is allowed), 9e-7 in
# float32 (5.7e-6). bf16 weights computed with in float32 are 0.0062 away; two engines may be twice that.
VECTOR_ROUNDING = 6.0


@dataclass(frozen=True)
class Embedding:
    """A sentence embedding of every row, (n, d) float32.

    Attributes:
        model: ``minilm`` (the packaged all-MiniLM-L6-v2), a hub id, or a folder. A plain transformer
            such as ``bert-base-uncased`` works; its ``model`` pooling is the mean.
        pooling: ``model`` follows the model's own modules; ``mean`` averages the last hidden states
            over all tokens, special ones included (LTD, arXiv 2305.09246); ``cls`` takes the first.
        normalize: scale every vector to length 1, so that Euclidean and cosine order agree.
        text: ``row`` embeds prompt and response together, as LTD does; ``prompt`` leaves the response out.
        max_tokens: longer texts are cut; 0 takes the model's own limit, and more than that is refused.
        dtype: number format of the weights. float32 is the default on every device, so that a laptop
            and a GPU choose the same rows; ``bfloat16`` is 2.6 times as fast where the hardware computes
            in it, and k-center then takes half of its rows or more elsewhere, although the vectors of a
            row agree to a cosine of 0.998 and better. ``auto`` is float32.
        device: where to run.
    """

    model: Annotated[str, WEIGHTS] = "minilm"
    pooling: Literal["model", "mean", "cls"] = "model"
    normalize: bool = True
    text: Literal["row", "prompt"] = "row"
    max_tokens: int = 0
    dtype: str = "float32"
    device: Annotated[str, ANYHOW] = "auto"

    kind: ClassVar[str] = "embedding"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.dtype == "auto":  # what a machine computes in fast must not choose the rows
            object.__setattr__(self, "dtype", "float32")
        findings = []
        for name, value, known in (
            ("pooling", self.pooling, ("model", "mean", "cls")),
            ("text", self.text, ("row", "prompt")),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                findings.append(f"embedding: {name} = '{value}' is unknown. Known: {', '.join(known)}.")
        if self.max_tokens < 0:
            findings.append(
                f"embedding: max_tokens = {self.max_tokens} is negative; 0 takes the model's limit."
            )
        if findings:
            raise SettingsError(*findings)

    def spec(self) -> Mapping[str, Json]:
        """All settings but the device; the model by its contents."""
        return spec_of(self)

    def placement(self) -> Placement:
        """The device and number format that this machine gives the model."""
        return place(self.device, self.dtype)

    def tolerance(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return a share of each vector's length, (n,): rounding is relative to what is rounded."""
        return VECTOR_ROUNDING * self.placement().rounding * lengths(values)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.float32]:
        """Return the rows' vectors, (len(rows), d) float32.

        Raises:
            ModelError: the weights cannot be found, or are not the published ones.
            SettingsError: ``max_tokens`` is more than the model can read.
        """
        texts = [row.text if self.text == "row" else row.prompt for row in rows]
        encoder = _load(self.model, resolve(self.model).sha, self.placement())
        return encoder.encode(texts, self.pooling, self.max_tokens, normalize=self.normalize)


@lru_cache(maxsize=2)
def _load(model: str, _sha: str, placement: Placement) -> _Encoder:
    """Load once per process; two, so that comparing an encoder with another does not reload both."""
    from sentence_transformers import SentenceTransformer

    folder = verified(model).path
    pickled = [
        f
        for f in folder.rglob("pytorch_model.bin")
        if f.parent != folder and not f.with_name("model.safetensors").is_file()
    ]
    if pickled:  # sentence-transformers would read them, and a model is known by its safetensors
        raise ModelError(
            f"The layer {pickled[0].parent.name} of '{model}' is pickled ({pickled[0].name}), which is never "
            "read; convert it to model.safetensors first."
        )
    try:  # of a folder that is no encoder's, anything may be raised
        with quiet_transformers():
            loaded = SentenceTransformer(
                str(folder),
                device=placement.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": placement.torch_dtype, "use_safetensors": True},
            )
    except Exception as error:
        raise ModelError(f"'{model}' in {folder} is no encoder that can be loaded: {error}") from error
    loaded.eval()
    # After the transformer everything runs in float32: rounding each pooled vector to bf16 would cost
    # more accuracy than the whole forward pass does.
    for module in list(loaded)[1:]:
        module.float()
    log.info("%s runs on %s in %s", model, placement.device, placement.dtype)
    return _Encoder(loaded, placement)


@dataclass(frozen=True, eq=False)
class _Encoder:
    model: SentenceTransformer
    placement: Placement

    def encode(
        self, texts: list[str], pooling: str, max_tokens: int, *, normalize: bool
    ) -> NDArray[np.float32]:
        import torch

        if not texts:
            return np.empty((0, self.model.get_embedding_dimension() or 0), dtype=np.float32)
        tokens = self._tokenize(texts, max_tokens)
        budget = CPU_TOKENS if self.placement.on_cpu else ACCELERATOR_TOKENS
        with torch.inference_mode():
            batches = token_batches([len(row) for row in tokens], budget)
            parts = [self._pooled([tokens[index] for index in batch], pooling) for batch in batches]
            vectors = torch.cat(parts)
            if normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        out = np.empty(vectors.shape, dtype=np.float32)
        out[np.concatenate(batches)] = vectors.cpu().numpy()
        return out

    def _tokenize(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        own = self.model.max_seq_length or 512
        if max_tokens > own:
            raise SettingsError(
                f"embedding: max_tokens = {max_tokens} is more than the {own} tokens that the encoder reads. "
                "Leave it out, or choose an encoder with a larger window."
            )
        limit = max_tokens or own
        prefix = self.model.prompts.get(self.model.default_prompt_name or "") or ""
        encoded = self.model.tokenizer(
            [prefix + text for text in texts], truncation=True, max_length=limit, return_attention_mask=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _pooled(self, tokens: list[list[int]], pooling: str) -> torch.Tensor:
        """Return (rows, d) float32 vectors of one batch."""
        import torch

        tokenizer = self.model.tokenizer
        ids = pad(tokens, tokenizer.pad_token_id or 0, tokenizer.padding_side)
        mask = pad([[1] * len(row) for row in tokens], 0, tokenizer.padding_side)
        device = self.placement.device
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }
        modules = list(self.model)
        features = modules[0](features)
        hidden: torch.Tensor = features["token_embeddings"].float()
        if pooling == "mean":
            weights: torch.Tensor = features["attention_mask"].unsqueeze(-1).float()
            return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        if pooling == "cls":
            first = features["attention_mask"].argmax(dim=1)
            cls: torch.Tensor = hidden[torch.arange(len(hidden), device=hidden.device), first]
            return cls
        features["token_embeddings"] = hidden
        for module in modules[1:]:
            features = module(features)
        out: torch.Tensor = features["sentence_embedding"].float()
        return out
