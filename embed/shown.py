"""Why a model has no value for a row: what its template, its window or its vocabulary cannot show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from dfilter.chat import Template, render_many, style
from dfilter.errors import InputError
from dfilter.identity import SHOWN, WEIGHTS, spec_of
from dfilter.models import configuration, load_tokenizer
from dfilter.types import Example, Json
from dfilter.view import through
from dfilter.window import readable, vocabulary, window_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset


@dataclass(frozen=True)
class Rendered:
    """Rows as a template shows them to a model, for what the model's window shows of them.

    Attributes:
        model: whose template, tokenizer and window; no weight is read.
        template: as the rows are shown.
        max_tokens: longer rows lose their end.
        base: what a model without a template of its own takes.
    """

    model: Annotated[str, WEIGHTS]
    template: Annotated[Template, SHOWN]
    max_tokens: int
    base: Template = "alpaca"

    kind: ClassVar[str] = "rendered"
    version: ClassVar[int] = 2

    def spec(self) -> Mapping[str, Json]:
        """All settings; the model by its contents."""
        return spec_of(self)

    def seen(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return what the window shows of every row, (len(rows),) of ``dfilter.view.SEEN``."""
        tokenizer = load_tokenizer(self.model)
        limit = min(self.max_tokens, window_of(self.model, tokenizer))
        shown, eot = style(tokenizer, template=self.template, base=self.base)
        found = render_many(rows, tokenizer, template=shown, eot=eot, turns="last")
        return through([len(row.input_ids) for row in found], [row.start for row in found], limit)


NOTHING_TO_READ = "the model's template or tokenizer leaves nothing of it"


def why_not(
    rows: Dataset,
    places: NDArray[np.int64],
    model: str,
    *,
    template: Template,
    max_tokens: int,
    base: Template = "alpaca",
    labelled: bool = True,
) -> dict[int, str]:
    """Return why the rows at ``places`` have no value, by place; those that can be shown are left out.

    The few rows are rendered once more, which spares every value in the store a reason.

    Args:
        rows: all rows.
        places: (m,) those without a value.
        model: whose template, window and tokenizer; no weight is read.
        template: as the rows were shown.
        max_tokens: as the rows were cut.
        base: what a model without a template of its own takes.
        labelled: whether a row needs a token of its response, or any token.

    Raises:
        InputError: no row at all can be shown.
    """
    if not len(places):
        return {}
    tokenizer = load_tokenizer(model)
    limit = min(max_tokens, window_of(model, tokenizer))
    shown, eot = style(tokenizer, template=template, base=base)
    rendered = render_many(rows.take(places), tokenizer, template=shown, eot=eot, max_tokens=limit)
    found = readable(rendered, vocabulary(configuration(model)))
    reasons = {
        at: row.lacks(limit) if labelled else row.refused or ("" if row.input_ids else NOTHING_TO_READ)
        for at, row in zip(places.tolist(), found, strict=True)
    }
    if len(places) == len(rows) and all(reasons.values()):
        raise none_shown(model, list(reasons.values()))
    return {at: reason for at, reason in reasons.items() if reason}


def none_shown(model: str, reasons: list[str]) -> InputError:
    """Return the error of rows of which a model can be shown none, with the most frequent reason."""
    (often, count), *_ = Counter(reasons).most_common(1)
    return InputError(
        f"'{model}' can be shown none of {len(reasons):,} rows; of {count:,}: {often}. Choose another model, "
        "the template alpaca, tulu or turns, or more tokens."
    )
