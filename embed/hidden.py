"""Hidden states of a causal language model, pooled over a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.chat import Encoded, Template, render_many, style
from dfilter.embed.batches import pad, token_batches
from dfilter.embed.causal import Causal, load
from dfilter.embed.device import Placement, place
from dfilter.embed.shown import Rendered
from dfilter.identity import ANYHOW, DTYPE, SHOWN, WEIGHTS, spec_of
from dfilter.types import Example, Json
from dfilter.window import readable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Length of the difference of unit vectors, in multiples of the format's rounding; a mean over positions
# rounds less than one of them. Batches of one against batches of many, SmolLM2, 64 Alpaca rows: at most
# 0.0046 weighted and 0.034 last in bf16 (0.031 and 0.094 are allowed); 2.9e-7 and 1.2e-6 in float32
# (7.6e-6 and 2.3e-5; 20 rows). bf16 weights computed with in float32 are 0.013 and 0.024 away; two engines
# may be twice that.
VECTOR_ROUNDING = {"weighted": 8.0, "last": 24.0}


@dataclass(frozen=True)
class HiddenState:
    """The last layer's hidden states over prompt and response, pooled to (n, d) float32, length 1.

    A row that the model cannot be shown has NaN.

    Attributes:
        model: smollm2, a hub id, or a folder.
        pooling: ``weighted`` averages the positions with weight i / (1 + ... + t), the later the more
            (RDS+, arXiv 2503.01807, after SGPT); ``last`` takes the last token's (RDS as LESS compares
            with, arXiv 2402.04333).
        template: how a row is shown to the model; see :mod:`dfilter.chat`.
        max_tokens: longer rows lose their end, and so do rows longer than the model's window; 2,048 as in
            both papers.
        dtype: number format; "auto" is bf16 where the hardware computes in it, and the spec names
            which it is.
        device: where to run.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    pooling: Literal["weighted", "last"] = "weighted"
    template: Annotated[Template, SHOWN] = "auto"
    max_tokens: int = 2_048
    dtype: Annotated[str, DTYPE] = "auto"
    device: Annotated[str, ANYHOW] = "auto"

    kind: ClassVar[str] = "hidden_state"
    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6
    shard_rows: ClassVar[int] = 256

    def spec(self) -> Mapping[str, Json]:
        """All settings but the device; the model by its contents, the number format by its own name."""
        return spec_of(self)

    def placement(self) -> Placement:
        """The device and number format that this machine gives the model."""
        return place(self.device, self.dtype)

    def tolerance(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the length of the difference of two unit vectors, (n,)."""
        return np.full(len(values), VECTOR_ROUNDING[self.pooling] * self.placement().rounding)

    def seen(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return what the model's window shows of every row, (len(rows),) of ``dfilter.view.SEEN``."""
        return Rendered(self.model, self.template, self.max_tokens).seen(rows)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.float32]:
        """Return (len(rows), d) float32 vectors of length 1."""
        causal = load(self.model, self.placement())
        template, eot = style(causal.tokenizer, template=self.template)
        limit = min(self.max_tokens, causal.window)
        found = render_many(rows, causal.tokenizer, template=template, eot=eot, max_tokens=limit)
        encoded = readable(found, causal.vocabulary)
        shown = np.flatnonzero([len(row.input_ids) > 0 for row in encoded])
        embeddings: Any = causal.model.get_input_embeddings()
        out = np.full((len(rows), embeddings.weight.shape[1]), np.nan, dtype=np.float32)
        for part in token_batches([len(encoded[at].input_ids) for at in shown.tolist()], causal.budget):
            batch = shown[part]
            vectors = pooled(causal, [encoded[index] for index in batch.tolist()], self.pooling)
            out[batch] = vectors.cpu().numpy()
        return out


def pooled(causal: Causal, batch: Sequence[Encoded], pooling: str) -> torch.Tensor:
    """Return (rows, d) float32 vectors of one batch, each of length 1."""
    import torch

    device = causal.placement.device
    ids = torch.from_numpy(pad([row.input_ids for row in batch], causal.pad))
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
