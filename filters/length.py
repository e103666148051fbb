"""Longest: rows with the longest responses.

Long Is More for Alignment (arXiv:2402.04833) keeps the 1,000 longest responses of Alpaca. The unit
is not named there; counting words with NLTK reproduces the released rows (997 to 999 of 1,000),
while characters agree on 858, words between blanks on 933 and LLaMA tokens on 823.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from dfilter.errors import SettingsError
from dfilter.identity import WEIGHTS, bare, identity, settings_identity
from dfilter.segmentation import spaced
from dfilter.types import Example, Json, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool

UNITS = ("characters", "words", "tokens")


@dataclass(frozen=True)
class Tokens:
    """The number of tokens in the response of every row, (n,) int64.

    Attributes:
        tokenizer: a model's name; or "words", NLTK's word tokenizer over the sentences that an
            untrained Punkt finds, which needs no data files. Where a script has no blanks between words,
            such as Chinese or Thai, every character counts as one.
    """

    tokenizer: Annotated[str, WEIGHTS] = "words"

    kind: ClassVar[str] = "tokens"
    version: ClassVar[int] = 2

    def spec(self) -> Mapping[str, Json]:
        """The model by its contents, or the release of NLTK."""
        found: Mapping[str, Json] = bare(self.identify())
        return found

    def identify(self) -> Mapping[str, Json]:
        """Return the spec with the model's name."""
        if self.tokenizer == "words":
            from importlib.metadata import version

            return {"tokenizer": "words", "nltk": version("nltk")}
        return settings_identity(self)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        """Return the number of tokens of each response, special tokens left out.

        Raises:
            ModelError: there is no such tokenizer.
        """
        texts = [row.response for row in rows]
        if self.tokenizer == "words":
            return np.array(_word_counts(texts), dtype=np.int64)
        from dfilter.models import load_tokenizer

        encoded = load_tokenizer(self.tokenizer)(texts, add_special_tokens=False, return_attention_mask=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)


def _word_counts(texts: Sequence[str]) -> list[int]:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    words, sentences = NLTKWordTokenizer(), PunktSentenceTokenizer()
    parts = (sentences.tokenize(spaced(text)) for text in texts)
    return [sum(len(words.tokenize(part)) for part in text) for text in parts]


@dataclass(frozen=True)
class Longest:
    """The longest responses first.

    Attributes:
        unit: characters, words (NLTK's) or tokens.
        tokenizer: the model whose tokens are counted where the unit is tokens.
    """

    unit: Literal["characters", "words", "tokens"] = "words"
    tokenizer: Annotated[str, WEIGHTS] = "smollm2"

    paper: ClassVar[str] = "arXiv:2402.04833"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "the response"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise SettingsError(f"unit = '{self.unit}' is unknown. Known: {', '.join(UNITS)}.")

    def identify(self) -> Mapping[str, Json]:
        """Return the unit, and what counts it where that is a matter of choice."""
        if self.unit == "characters":
            return {"unit": self.unit}
        return {"unit": self.unit, "tokens": identity(self._tokens)}

    @property
    def _tokens(self) -> Tokens:
        return Tokens("words" if self.unit == "words" else self.tokenizer)

    def score(self, pool: Pool) -> Scores:
        """Return the length of each response in the chosen unit."""
        if self.unit == "characters":
            lengths = np.array([len(row.response) for row in pool.rows], dtype=np.int64)
        else:
            lengths = pool.signal(self._tokens)
        reasons = [f"{count:,} {self.unit}" for count in lengths.tolist()]
        return Scores(lengths.astype(np.float64), reasons=reasons)
