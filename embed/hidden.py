"""Hidden states of a causal language model, pooled over a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dfilter.chat import Encoded, Template, render_many, special_ids, style
from dfilter.embed.batches import pad, token_batches
from dfilter.embed.causal import Causal, load
from dfilter.embed.device import Placement, place
from dfilter.models import resolve
from dfilter.types import Example, Json

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class HiddenState:
    """The last layer's hidden states over prompt and response, pooled to (n, d) float32, length 1.

    Attributes:
        model: smollm2, a hub id, or a folder.
        pooling: ``weighted`` averages the positions with weight i / (1 + ... + t), the later the more
            (RDS+, arXiv 2503.01807, after SGPT); ``last`` takes the last token's (RDS as LESS compares
            with, arXiv 2402.04333).
        template: how a row is shown to the model; see :mod:`dfilter.chat`.
        max_tokens: longer rows lose their end; 2,048 as in both papers.
        dtype: number format; the asked-for name is part of the spec, what "auto" finds is not.
        device: where to run; not part of the spec.
    """

    model: str = "smollm2"
    pooling: Literal["weighted", "last"] = "weighted"
    template: Template = "auto"
    max_tokens: int = 2_048
    dtype: str = "auto"
    device: str = "auto"

    shard_rows: ClassVar[int] = 256
    # Largest change of one coordinate of a unit vector that bf16 arithmetic makes.
    tolerance: ClassVar[float] = 0.02

    def spec(self) -> Mapping[str, Json]:
        """All settings but the device, with the weights' own hash."""
        return {
            "weights": resolve(self.model).sha,
            "pooling": self.pooling,
            "template": self.template,
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
        }

    def placement(self) -> Placement:
        """The device and number format that this machine gives the model."""
        return place(self.device, self.dtype)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.float32]:
        """Return (len(rows), d) float32 vectors of length 1."""
        causal = load(self.model, self.placement())
        template, eot = style(causal.tokenizer, template=self.template)
        encoded = render_many(rows, causal.tokenizer, template=template, eot=eot, max_tokens=self.max_tokens)
        embeddings: Any = causal.model.get_input_embeddings()
        out = np.zeros((len(rows), embeddings.weight.shape[1]), dtype=np.float32)
        for batch in token_batches([len(row.input_ids) for row in encoded], causal.budget):
            vectors = pooled(causal, [encoded[index] for index in batch.tolist()], self.pooling)
            out[batch] = vectors.cpu().numpy()
        return out


def pooled(causal: Causal, batch: Sequence[Encoded], pooling: str) -> torch.Tensor:
    """Return (rows, d) float32 vectors of one batch, each of length 1."""
    import torch

    device = causal.placement.device
    ids = torch.from_numpy(pad([row.input_ids for row in batch], special_ids(causal.tokenizer).pad))
    mask = torch.from_numpy(pad([[1] * len(row.input_ids) for row in batch], 0)).to(device)
    with torch.inference_mode():
        hidden: torch.Tensor = causal.model.base_model(
            input_ids=ids.to(device), attention_mask=mask, use_cache=False
        ).last_hidden_state.float()
        if pooling == "last":
            vectors = hidden[torch.arange(len(hidden), device=device), mask.sum(1) - 1]
        else:
            weights = (mask * torch.arange(1, mask.shape[1] + 1, device=device)).unsqueeze(2).float()
            vectors = (hidden * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(vectors, dim=1)
