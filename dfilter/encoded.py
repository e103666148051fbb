"""A conversation as a model reads it."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE = -100  # a label that the loss passes over


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation as a model reads it.

    Attributes:
        input_ids: token ids.
        labels: the same ids where the assistant says what is to be learnt, :data:`IGNORE` elsewhere; not
            shifted, as transformers' models expect it.
        refused: why the row cannot be shown, empty when it can; then there are no ids.
        cut: whether the loss misses tokens of it that stand beyond the limit.
    """

    input_ids: list[int]
    labels: list[int]
    refused: str = ""
    cut: bool = False

    @property
    def trained(self) -> int:
        """How many tokens the loss is taken over; the first token is never predicted."""
        return sum(label != IGNORE for label in self.labels[1:])

    @property
    def start(self) -> int:
        """Position of the first labelled token; the length when there is none."""
        return next((at for at, label in enumerate(self.labels) if label != IGNORE), len(self.labels))

    def lacks(self, max_tokens: int) -> str:
        """Return why there is no token to take a loss over; empty when there is one.

        Args:
            max_tokens: what the row was cut to.
        """
        if self.trained:
            return ""
        if self.refused or len(self.input_ids) < max_tokens:
            return self.refused or "its response has no token that can be predicted"
        return f"no response within {max_tokens:,} tokens"
