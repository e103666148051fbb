"""Held-out loss: how likely a model finds reference answers it was not trained on.

It is cheap and precise, and it is a proxy: LIMA saw perplexity anti-correlate with quality
(arXiv 2305.11206, §3 and appendix B), so tables mark it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.chat import Encoded, Template, render_many
from dfilter.errors import InputError, SettingsError
from dfilter.identity import ANYHOW, CONTENT, DTYPE, SHOWN, settings_identity
from dfilter.models import configuration, load_causal, load_tokenizer, lossless_dtype
from dfilter.textmatch import clusters
from dfilter.types import EvalResult, Json
from dfilter.window import readable, vocabulary, window

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset

CPU_TOKENS = 2_048
GPU_TOKENS = 32_768


@dataclass(frozen=True)
class Heldout:
    """Loss of the reference answers of a file, per row and per token.

    Attributes:
        source: a file of rows, of any form that training data may have.
        format: of the rows, as ``dfilter run`` takes it; "auto" finds out.
        mapping: field to column.
        per: "row": every row counts alike, its value is the mean loss of its answer's tokens; "token":
            every token counts alike, a row's value is its summed loss over the mean number of
            tokens of a row, so that the mean over rows is the loss per token of the whole file.
        max_tokens: longer rows are cut, and so are rows longer than the model's window; rows whose answer
            is cut off entirely have no value, nor have those that the template cannot show.
        template: of the prompt; see :mod:`dfilter.chat`.
        batch_tokens: padded tokens of a batch; 0 chooses by the device.
        dtype: of the weights: "float32", "bfloat16", or "auto" (see :func:`dfilter.models.lossless_dtype`).
    """

    source: Annotated[str, CONTENT]
    format: str = "auto"
    mapping: Mapping[str, str] = field(default_factory=dict)
    per: Literal["row", "token"] = "row"
    max_tokens: int = 2_048
    template: Annotated[Template, SHOWN] = "auto"
    batch_tokens: Annotated[int, ANYHOW] = 0
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], DTYPE] = "auto"

    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise SettingsError(
                f"max_tokens = {self.max_tokens}; a prompt and an answer need more than that."
            )

    def identify(self) -> Mapping[str, Json]:
        """Return what its values depend on; the contents alone where the shape is found out from them."""
        found_out = [name for name in ("format", "mapping") if getattr(self, name) in ("auto", {})]
        return settings_identity(self, but=found_out)

    def _rows(self) -> Dataset:
        from dfilter.data.loading import load

        return load(self.source, format=self.format, mapping=self.mapping)

    def asked(self) -> list[str]:
        """Return the prompts, to be looked for in training rows."""
        return [row.prompt for row in self._rows()]

    def check(self) -> None:
        """Read the rows, before there is a model.

        Raises:
            InputError: none has an answer.
        """
        if not any(row.response.strip() for row in self._rows()):
            raise InputError(f"No row of {self.source} has an answer, whose loss could be measured.")

    def shown_to(self, model: str) -> int:
        """Return of how many rows the model can be shown an answer."""
        encoded, _ = self._encoded(list(self._rows()), configuration(model), load_tokenizer(model))
        return sum(row.trained > 0 for row in encoded)

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:  # noqa: ARG002 - nothing is random here
        """Return one loss in nats per row; lower is better.

        Facts: ``loss_per_token`` and ``loss_per_row`` of the file, ``tokens`` of each row's answer, and
        ``not_shown``, the reason of each row without a value.

        Raises:
            InputError: no row has a value.
        """
        rows = list(self._rows())
        sums, tokens, lacking = self._losses(rows, model)
        counted = tokens > 0
        if not counted.any():
            why = "; ".join(f"{count:,}: {reason}" for reason, count in Counter(lacking).most_common(3))
            raise InputError(f"No row of {self.source} has an answer that the model can be shown ({why}).")
        sums = np.where(counted, sums, math.nan)
        per_row = sums / np.maximum(tokens, 1)
        per_token = sums / tokens[counted].mean()
        facts: dict[str, Any] = {
            "proxy": True,
            "loss_per_token": float(np.nansum(sums) / tokens.sum()),
            "loss_per_row": float(np.nanmean(per_row)),
            "tokens": tokens.tolist(),
        }
        if not counted.all():
            named = zip(rows, lacking, strict=True)
            facts["not_shown"] = {row.id: reason for row, reason in named if reason}
        labels = clusters(row.prompt for row in rows)
        if len(set(labels)) < len(labels):
            facts["clusters"] = labels
        values = per_row if self.per == "row" else per_token
        return EvalResult(
            tuple(row.id for row in rows),
            values,
            f"held-out loss per {self.per}",
            higher_is_better=False,
            facts=facts,
        )

    def _losses(
        self, rows: Sequence[Any], model: Path
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
        """Return each row's summed loss, its number of tokens, and why there are none."""
        import torch

        dtype = lossless_dtype(model) if self.dtype == "auto" else self.dtype
        network, tokenizer = load_causal(model, dtype=dtype)
        encoded, limit = self._encoded(rows, network.config, tokenizer)
        on_gpu = network.device.type == "cuda"
        budget = self.batch_tokens or (GPU_TOKENS if on_gpu else CPU_TOKENS)
        sums = np.zeros(len(rows))
        tokens = np.array([row.trained for row in encoded], dtype=np.int64)
        some = np.flatnonzero(tokens)
        with torch.inference_mode():
            for part in _batches([len(encoded[at].input_ids) for at in some.tolist()], budget):
                batch = some[part]
                sums[batch] = response_losses(network, [encoded[at] for at in batch.tolist()])
        return sums, tokens, [row.lacks(limit) for row in encoded]

    def _encoded(self, rows: Sequence[Any], config: Any, tokenizer: Any) -> tuple[list[Encoded], int]:
        """Return the rows as the model is shown them, and the most tokens that a row may have."""
        limit = min(self.max_tokens, window(config, tokenizer))
        found = render_many(rows, tokenizer, template=self.template, max_tokens=limit)
        return readable(found, vocabulary(config)), limit


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    batches = []
    while order:
        size = max(1, budget // max(lengths[order[0]], 1))
        batches.append(order[:size])
        order = order[size:]
    return batches


def response_losses(network: Any, batch: Sequence[Encoded]) -> NDArray[np.float64]:
    """Return the summed loss, in nats, of each row's labelled tokens.

    The logits are made from the first labelled position on, and the logarithms are taken in float32.
    """
    import inspect

    import torch

    width = max(len(row.input_ids) for row in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), -100, dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for at, row in enumerate(batch):
        size = len(row.input_ids)
        ids[at, :size] = torch.tensor(row.input_ids)
        labels[at, :size] = torch.tensor(row.labels)
        mask[at, :size] = 1
    labels[:, 0] = -100  # nothing comes before the first token
    spoken = (labels != -100).any(0).nonzero()
    if not len(spoken):
        return np.zeros(len(batch))
    first = int(spoken[0]) - 1
    place = network.device
    accepted = inspect.signature(network.forward).parameters
    lazy = "logits_to_keep" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    keep = {"logits_to_keep": width - first} if lazy else {}  # ignored or not, the end is the same
    out = network(input_ids=ids.to(place), attention_mask=mask.to(place), use_cache=False, **keep)
    logits = out.logits[:, -(width - first) : -1]
    wanted = labels[:, first + 1 :].to(place)
    chosen = wanted != -100
    losses = torch.nn.functional.cross_entropy(
        logits[chosen].float(), wanted[chosen], reduction="none"
    ).double()
    rows = chosen.nonzero()[:, 0]
    sums = torch.zeros(len(batch), dtype=torch.float64, device=place).index_add_(0, rows, losses)
    return np.asarray(sums.cpu().numpy())
