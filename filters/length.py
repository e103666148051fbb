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
from dfilter.looked_at import Turns, over_turns, refuse_unknown
from dfilter.segmentation import spaced
from dfilter.types import Example, Json, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool

UNITS = ("characters", "words", "tokens")


@dataclass(frozen=True)
class Tokens:
    """The number of tokens in the response of every row, (n,) int64; of several turns the sum of theirs.

    Attributes:
        tokenizer: a model's name; or "words", NLTK's word tokenizer over the sentences that an
            untrained Punkt finds, which needs no data files. Where a script has no blanks between words,
            such as Chinese or Thai, every character counts as one.
    """

    tokenizer: Annotated[str, WEIGHTS] = "words"

    kind: ClassVar[str] = "tokens"
    version: ClassVar[int] = 3  # 2 took Tibetan answers for a word

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
        turns = [[row.messages[at].content for at in row.replies] for row in rows]
        texts = [text for row in turns for text in row]
        if self.tokenizer == "words":
            counts = _word_counts(texts)
        else:
            from dfilter.models import load_tokenizer

            known = load_tokenizer(self.tokenizer)
            encoded = known(texts, add_special_tokens=False, return_attention_mask=False)
            counts = [len(ids) for ids in encoded["input_ids"]]
        counted = iter(counts)
        return np.array([sum(next(counted) for _ in row) for row in turns], dtype=np.int64)


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
        turns: which replies of a conversation are looked at, see :mod:`dfilter.looked_at`.
    """

    unit: Literal["characters", "words", "tokens"] = "words"
    tokenizer: Annotated[str, WEIGHTS] = "smollm2"
    turns: Turns = "all"

    paper: ClassVar[str] = "arXiv:2402.04833"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "what is to be learnt"

    def __post_init__(self) -> None:
        refuse_unknown(self.turns)
        if self.unit not in UNITS:
            raise SettingsError(f"unit = '{self.unit}' is unknown. Known: {', '.join(UNITS)}.")

    def identify(self) -> Mapping[str, Json]:
        """Return the unit, and what counts it where that is a matter of choice."""
        known: dict[str, Json] = {"unit": self.unit, "turns": self.turns}
        return known if self.unit == "characters" else known | {"tokens": identity(self._tokens)}

    @property
    def _tokens(self) -> Tokens:
        return Tokens("words" if self.unit == "words" else self.tokenizer)

    def score(self, pool: Pool) -> Scores:
        """Return the length of each response in the chosen unit."""
        return over_turns(pool, self.turns, self._lengths)

    def _lengths(self, pool: Pool) -> Scores:
        if self.unit == "characters":
            replies = ((row.messages[at].content for at in row.replies) for row in pool.rows)
            lengths = np.array([sum(map(len, texts)) for texts in replies], dtype=np.int64)
        else:
            lengths = pool.signal(self._tokens)
        reasons = [f"{count:,} {self.unit}" for count in lengths.tolist()]
        return Scores(lengths.astype(np.float64), reasons=reasons)
