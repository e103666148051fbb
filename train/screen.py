"""Which rows a training can learn from, known before it is started and kept from one look to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from dfilter import chat, models
from dfilter.identity import SHOWN, WEIGHTS, spec_of
from dfilter.types import Example, Json
from dfilter.window import readable, vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainedTokens:
    """Tokens of a row that a training takes its loss over, (n,) int64; of a row with 0 it learns nothing.

    Attributes:
        model: whose tokenizer and chat template.
        template: how a row is written; see :mod:`dfilter.chat`.
        eot: whether every turn is closed by the end-of-turn token, which a tokenizer without one is given.
        max_tokens: longer rows lose their end; at most the model's window.
    """

    model: Annotated[str, WEIGHTS]
    template: Annotated[chat.Template, SHOWN]
    eot: bool
    max_tokens: int

    kind: ClassVar[str] = "trained_tokens"
    # 1 counted rows with a token that the model has no embedding for; 2 put a space before replies for
    # LLaMA's older tokenizers
    version: ClassVar[int] = 5
    shard_rows: ClassVar[int] = 4_096

    def spec(self) -> Mapping[str, Json]:
        """All settings, the model by its contents."""
        return spec_of(self)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        """Return (len(rows),) numbers of tokens."""
        return np.array([row.trained for row in self.encode(rows)], dtype=np.int64)

    def encode(self, rows: Sequence[Example]) -> list[chat.Encoded]:
        """Return the rows as the training reads them."""
        found = chat.render_many(
            rows, self.tokenizer(), template=self.template, eot=self.eot, max_tokens=self.max_tokens
        )
        return readable(found, self.vocabulary())

    def vocabulary(self) -> int:
        """Return how many tokens are embedded; an end-of-turn token that is new brings all others along."""
        size = vocabulary(models.configuration(self.model))
        tokenizer = self.tokenizer()
        closing = chat.eot_id(tokenizer) if self.eot else None
        return size if closing is None or closing < size else len(tokenizer)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with the end-of-turn token that is trained; once per process."""
        return _tokenizer(self.model, models.resolve(self.model).sha, self.eot)


@lru_cache(maxsize=1)
def _tokenizer(model: str, _sha: str, eot: bool) -> PreTrainedTokenizerBase:
    tokenizer = models.load_tokenizer(model)
    if eot:
        chat.add_eot(tokenizer)
    return tokenizer
