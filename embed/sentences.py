"""Sentence embeddings of rows by a sentence-transformers encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from dfilter.embed.device import DTYPES, Placement, place
from dfilter.embed.passages import Spans, passages, tail
from dfilter.errors import SettingsError
from dfilter.identity import ANYHOW, WEIGHTS, spec_of
from dfilter.models import resolve
from dfilter.tolerance import lengths
from dfilter.types import Example, Json
from dfilter.view import SEEN
from dfilter.window import BOUNDLESS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.embed.encoder import Encoder

# Length of the difference as a share of the vector's own, in multiples of the format's rounding. Batches of
# one against batches of many, MiniLM, 96 Alpaca rows: at most 0.0076 in bf16 (0.023 is allowed), 9e-7 in
# float32 (5.7e-6). bf16 weights computed with in float32 are 0.0062 away; two engines may be twice that.
VECTOR_ROUNDING = 6.0


LONG = ("turns", "chunks", "tail", "cut")
PARTED = ("turns", "chunks")  # these read all of a row


@dataclass(frozen=True)
class Embedding:
    """A sentence embedding of every row, (n, d) float32.

    A row that fits the model's window is embedded as one text, prompt and response with an empty line
    between them. A vector that is not finite is not stored; the row has none, and the next run tries again.

    Attributes:
        model: ``minilm`` (the packaged all-MiniLM-L6-v2), a hub id, or a folder. A plain transformer
            such as ``bert-base-uncased`` works; its ``model`` pooling is the mean.
        pooling: ``model`` follows the model's own modules; ``mean`` averages the last hidden states
            over all tokens, special ones included (LTD, arXiv 2305.09246); ``cls`` takes the first.
        normalize: scale every vector to length 1, so that Euclidean and cosine order agree.
        text: ``row`` embeds prompt and response together, as LTD does; ``prompt`` leaves the response out.
        system: embed system turns too. Without them rows are not alike because one system turn stands
            before them all; a row that has nothing else is embedded with it.
        long: what becomes of a row longer than the model's window. ``turns`` reads each turn by itself,
            piece by piece where it is long, and takes the mean of the turns, so that a long text that many
            rows share is one turn of several; ``chunks`` reads piece by piece and takes the mean of the
            pieces; ``tail`` reads the row's end, ``cut`` its beginning, as plain encoding does.
        prompt: put in front of every text and every piece of it, such as E5's "query: ". None is the
            model's own default, which is mostly nothing; the name of one of its own prompts stands for it.
        max_tokens: window to use; 0 takes the model's own limit, and more than that is refused.
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
    system: bool = False
    long: Literal["turns", "chunks", "tail", "cut"] = "turns"
    prompt: str | None = None
    max_tokens: int = 0
    dtype: str = "float32"
    device: Annotated[str, ANYHOW] = "auto"

    kind: ClassVar[str] = "embedding"
    version: ClassVar[int] = 2  # 1 embedded system turns, and of long rows the beginning
    finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.dtype == "auto":  # what a machine computes in fast must not choose the rows
            object.__setattr__(self, "dtype", "float32")
        findings = []
        for name, value, known in (
            ("pooling", self.pooling, ("model", "mean", "cls")),
            ("text", self.text, ("row", "prompt")),
            ("long", self.long, LONG),
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
        encoder, limit = self._encoder()
        if not rows:
            return np.empty((0, encoder.width), np.float32)
        prompt = encoder.prompt(self.prompt)
        room = encoder.room(prompt, limit)
        texts = [self.reads(row)[0] for row in rows]
        groups = [
            self._groups(row, text, lie, encoder, room)
            for row, text, lie in zip(rows, texts, encoder.spans(texts), strict=True)
        ]
        pieces = [piece for row in groups for group in row for piece in group]
        shares = [1 / len(row) / len(group) for row in groups for group in row for _ in group]
        vectors = encoder.encode(pieces, prompt, limit) * np.array(shares, np.float32)[:, None]
        counts = [sum(map(len, row)) for row in groups]
        out = np.add.reduceat(vectors, np.cumsum([0, *counts[:-1]]), axis=0)
        if self.normalize:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), np.float32(1e-12))
        return out.astype(np.float32)

    def seen(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return what the encoder's window shows of every row, (len(rows),) of ``dfilter.view.SEEN``."""
        encoder, limit = self._encoder()
        room = encoder.room(encoder.prompt(self.prompt), limit)
        told = [self.reads(row) for row in rows]
        spans = encoder.spans([text for text, _ in told])
        found = np.zeros(len(rows), SEEN)
        for at, ((text, response), lie) in enumerate(zip(told, spans, strict=True)):
            size = len(lie)
            found["tokens"][at], found["unknown"][at] = size, lie.unknown_share
            found["windows"][at] = sum(map(len, self._groups(rows[at], text, lie, encoder, room)))
            found["read"][at] = size if self.long in PARTED else min(size, room)
            before = int(np.searchsorted(lie.places[:, 0], response))
            found["unseen"][at] = self.long == "cut" and room <= before < size
        return found

    def reads(self, row: Example) -> tuple[str, int]:
        """Return the text of a row that is embedded, and the character at which its response begins."""
        asked = row.prompt if self.system else row.asked
        if self.text == "prompt":
            text = asked or row.prompt
            return text, len(text)
        return f"{asked}\n\n{row.response}", len(asked) + 2

    def _encoder(self) -> tuple[Encoder, int]:
        """Return the encoder and the tokens of its window that are used."""
        from dfilter.embed.encoder import load_encoder

        encoder = load_encoder(self.model, resolve(self.model).sha, self.placement(), self.pooling)
        if self.max_tokens and encoder.window >= BOUNDLESS:
            raise SettingsError(
                f"embedding: max_tokens = {self.max_tokens} cuts nothing: '{self.model}' reads texts of any "
                "length. Leave it out."
            )
        if self.max_tokens > encoder.window:
            raise SettingsError(
                f"embedding: max_tokens = {self.max_tokens} is more than the {encoder.window} tokens that "
                "the encoder reads. Leave it out, or choose an encoder with a larger window."
            )
        return encoder, self.max_tokens or encoder.window

    def _groups(self, row: Example, text: str, spans: Spans, encoder: Encoder, room: int) -> list[list[str]]:
        """Return what is read of a row: its vector is the mean of the groups, theirs that of their pieces."""
        if len(spans) <= room or self.long == "cut":
            return [[text]]
        if self.long == "tail":
            return [[tail(text, spans, room)]]
        if self.long == "chunks":
            return [passages(text, spans, room)]
        said = [turn.content for turn in row.before if self.system or turn.role != "system"]
        replies = [row.messages[at].content for at in row.replies] if self.text == "row" else []
        turns = [turn for turn in [*said, *replies] if turn.strip()]
        found = zip(turns, encoder.spans(turns), strict=True)
        return [passages(turn, lie, room) for turn, lie in found] or [passages(text, spans, room)]
