"""A warmed-up checkpoint, and how rows are shown to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from dfilter.chat import Encoded, Template, render_many, style
from dfilter.digests import file_sha256
from dfilter.embed.adam import AdamForm, EpsMode, adam_form
from dfilter.embed.adapters import Adapted, load_adapted
from dfilter.embed.device import Placement, place
from dfilter.embed.moments import moments_file, read_moments
from dfilter.identity import ANYHOW, DTYPE, SHOWN, WEIGHTS, spec_of
from dfilter.models import resolve
from dfilter.types import Example, Json
from dfilter.window import readable, vocabulary, window


@dataclass(frozen=True)
class Checkpoint:
    """Which gradients: of which adapter, on which tokens, in which number format.

    Attributes:
        folder: the adapter, with the optimizer's state beside it.
        template: how a row is shown; "auto" follows what the adapter was trained with, then the
            model's own chat template, then tulu, LESS's own.
        max_tokens: longer rows lose their end, as in LESS, and so do rows longer than the model's window;
            2,048 there.
        dtype: number format; "auto" is bf16 where the hardware computes in it, and the spec names
            which it is.
        device: where to run.
    """

    folder: Annotated[str, WEIGHTS]
    template: Annotated[Template, SHOWN] = "auto"
    max_tokens: int = 2_048
    dtype: Annotated[str, DTYPE] = "auto"
    device: Annotated[str, ANYHOW] = "auto"

    def spec(self) -> Mapping[str, Json]:
        """All settings but the device; the adapter and its base by their contents, not by their place."""
        return spec_of(self)

    def placement(self) -> Placement:
        """The device and number format that this machine gives the model."""
        return place(self.device, self.dtype)

    def load(self) -> Adapted:
        """Return the frozen model; once per process."""
        return load_adapted(self.folder, self.placement())

    def encode(self, rows: Sequence[Example]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Return the rows that have a label to learn from, encoded, and their places."""
        adapted = self.load()
        tokenizer = adapted.tokenizer
        template, eot = style(tokenizer, template=self.template, base="tulu")
        limit = min(self.max_tokens, window(adapted.model.config, tokenizer))
        found = render_many(rows, tokenizer, template=template, eot=eot, max_tokens=limit)
        encoded = readable(found, vocabulary(adapted.model.config))
        usable = [at for at, row in enumerate(encoded) if row.trained]
        return [encoded[at] for at in usable], np.array(usable, dtype=np.int64)

    def moments_sha(self) -> str:
        """SHA-256 of the file with the optimizer's moments."""
        return file_sha256(moments_file(Path(self.folder)))

    def adam(self, mode: EpsMode) -> AdamForm:
        """Return the Adam form of this checkpoint's gradients."""
        return _adam(self, resolve(self.folder).sha, self.moments_sha(), mode)


@lru_cache(maxsize=1)
def _adam(checkpoint: Checkpoint, _sha: str, _moments: str, mode: EpsMode) -> AdamForm:
    return adam_form(read_moments(Path(checkpoint.folder), checkpoint.load()), mode)
