"""How hard a response is for a model, with its prompt and without."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from dfilter.chat import IGNORE, Encoded, Template, end_ids, last_reply, render, render_many, style
from dfilter.embed.batches import token_batches
from dfilter.embed.causal import Causal, load, token_losses
from dfilter.embed.device import Placement, place
from dfilter.embed.prefix import read_prefix, without
from dfilter.embed.shown import none_shown
from dfilter.errors import InputError
from dfilter.identity import ANYHOW, DTYPE, SHOWN, WEIGHTS, spec_of
from dfilter.models import configuration, load_tokenizer
from dfilter.token_ids import front_ids, text_ids
from dfilter.turns import apply_template
from dfilter.types import Example, Json, Message
from dfilter.view import through
from dfilter.window import BOUNDLESS, NOT_EMBEDDED, beyond, vocabulary, window_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from dfilter.data.dataset import Dataset

LOSSES = np.dtype([("prompted", np.float32), ("alone", np.float32), ("tokens", np.int32)])
# Nats by which one token's loss may move, in multiples of the format's rounding: logits of some 30 are
# summed and kept in it. Batches of one against batches of many, SmolLM2, 64 Alpaca rows with 2 to 247
# response tokens: at most 0.20 / sqrt(tokens) in bf16, few tokens or many (0.5 is allowed); 1.3e-5 in
# float32 (1.2e-4; 20 rows). bf16 weights computed with in float32 are 0.14 / sqrt(tokens) away.
TOKEN_ROUNDING = 128.0
NOTHING_LEFT = "the model's template or tokenizer leaves nothing of its response"
JOINED = "its response joins what stands before it in one token"
NOTHING_PREDICTS = "its response is one token, which nothing predicts when it stands alone"
LONE = Example("", (Message("assistant", "b"),), {})


@dataclass(frozen=True)
class ResponseLoss:
    """Mean loss of the response's tokens given the prompt, and given nothing.

    A value has the fields ``prompted`` and ``alone``, nats a token, and ``tokens``, their number.
    Both losses are taken over the same tokens, from one load of the model: the response's own, without
    what ends the turn, as in Cherry's and Superfiltering's scripts; the turns of a pooled row are one text. A
    row of which one of them cannot be taken has 0 tokens and NaN for losses; :func:`unmeasured` says why.

    Attributes:
        model: smollm2, a hub id, or a folder.
        template: how a row is shown to the model; see :mod:`dfilter.chat`.
        opening: whether what opens the assistant's turn stays in front of the lone response, as Cherry
            keeps "### Response:" (arXiv 2308.12032). Without it nothing predicts the first token, which
            then counts in ``prompted`` only, as in Superfiltering (arXiv 2402.00530).
        max_tokens: how many tokens of prompt and response together are read; never more than the model's
            window.
        cut: whether longer rows lose their end, and the lone response as much of it, as Superfiltering's
            script has it, or have no value.
        dtype: number format; "auto" is bf16 where the hardware computes in it, and the spec names
            which it is.
        device: where to run.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    template: Annotated[Template, SHOWN] = "auto"
    opening: bool = True
    max_tokens: int = 512
    cut: bool = False
    dtype: Annotated[str, DTYPE] = "auto"
    device: Annotated[str, ANYHOW] = "auto"

    kind: ClassVar[str] = "response_loss"
    # 1 counted the token that ends the turn, and cut rows that do not fit; 2 wrote the token that begins a
    # text as text, and cut none for Superfiltering; 3 took inputs of white space for none; 4 read names of
    # control tokens in a row as these tokens.
    version: ClassVar[int] = 6
    shard_rows: ClassVar[int] = 256

    def spec(self) -> Mapping[str, Json]:
        """All settings but the device; the model by its contents, the number format by its own name."""
        return spec_of(self)

    def placement(self) -> Placement:
        """The device and number format that this machine gives the model."""
        return place(self.device, self.dtype)

    def tolerance(self, values: NDArray[np.void]) -> Mapping[str, NDArray[np.float64]]:
        """Return nats for both losses, (n,) each; the number of tokens is exact.

        A loss is a difference of logits and errs as they do, by an amount that does not shrink with the
        loss; the errors of a response's tokens partly cancel in their mean.
        """
        with np.errstate(divide="ignore"):
            nats = TOKEN_ROUNDING * self.placement().rounding / np.sqrt(values["tokens"])
        return {"prompted": nats, "alone": nats}

    def seen(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return what the window shows of every row, (len(rows),) of ``dfilter.view.SEEN``.

        Rows beyond it lose their end or, unless ``cut`` is set, have no value at all.
        """
        tokenizer = load_tokenizer(self.model)
        limit = min(self.max_tokens, window_of(self.model, tokenizer))
        shown = both(rows, tokenizer, self.template, BOUNDLESS, opened=self.opening)
        return through([len(row.input_ids) for row, _ in shown], [row.start for row, _ in shown], limit)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return (len(rows),) of the fields above."""
        causal = load(self.model, self.placement())
        limit = min(self.max_tokens, causal.window)
        shown = both(rows, causal.tokenizer, self.template, limit, opened=self.opening, cut=self.cut)
        prompted, lone = ([pair[at] for pair in shown] for at in range(2))
        out = np.empty(len(rows), dtype=LOSSES)
        out["prompted"], out["tokens"] = mean_losses(causal, prompted)
        out["alone"], _ = mean_losses(causal, lone)
        return out


def mean_losses(causal: Causal, rows: Sequence[Encoded]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the mean loss over each row's labels, (n,) nats, NaN where it has none, and their number."""
    counts = np.array([row.trained for row in rows], dtype=np.int64)
    sums = np.zeros(len(rows))
    some = np.flatnonzero(counts)
    prefix = read_prefix(causal, [rows[index] for index in some.tolist()])
    short = [without(rows[index], prefix) for index in some.tolist()]
    for batch in token_batches([len(row.input_ids) for row in short], causal.budget):
        losses, where = token_losses(causal, [short[index] for index in batch.tolist()], prefix)
        members = some[batch]
        sums[members] = np.bincount(where.cpu().numpy(), losses.double().cpu().numpy(), len(members))
    with np.errstate(invalid="ignore"):
        return (sums / counts).astype(np.float32), counts


def both(
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    limit: int,
    *,
    opened: bool,
    cut: bool = False,
) -> list[tuple[Encoded, Encoded]]:
    """Return each row's response behind its prompt, and alone; where a loss cannot be taken, twice why.

    Args:
        rows: (n,) conversations.
        tokenizer: the model's.
        template: how they are shown.
        limit: tokens of prompt and response together.
        opened: whether what opens the assistant's turn stays in front of the lone response.
        cut: whether longer rows lose their end, or are refused.
    """
    published = style(tokenizer, template=template)[0] != "chat"
    front = front_ids(tokenizer) if published else []
    leads = last_reply(LONE, tokenizer, template)[0] if published and opened else None
    ends = set(end_ids(tokenizer, template=template))
    lead = opening(tokenizer, template) if opened else []

    def alike(part: Sequence[Example], several: bool) -> list[tuple[Encoded, Encoded]]:
        if published and not several:  # the scripts know rows of one reply
            return [_joined(row, tokenizer, template, limit, front, leads, cut=cut) for row in part]
        shown = render_many(part, tokenizer, template=template, turns="all" if several else "last")
        said = [_said(row, ends, limit, cut=cut) for row in shown]
        return [_measurable(row, _alone(row, lead), row.refused) for row in said]

    several = [len(row.replies) > 1 for row in rows]
    found = {
        kind: iter(alike([row for row, own in zip(rows, several, strict=True) if own == kind], kind))
        for kind in set(several)
    }
    return [next(found[kind]) for kind in several]


def unmeasured(rows: Dataset, places: NDArray[np.int64], signal: ResponseLoss) -> dict[int, str]:
    """Return why the rows at ``places`` have no losses, by place; those that can be read are left out.

    The few rows are tokenized once more, which spares every value in the store a reason.

    Args:
        rows: all rows.
        places: (m,) those without a value.
        signal: the losses; of its model no weight is read.

    Raises:
        InputError: no row at all can be read.
    """
    if not len(places):
        return {}
    tokenizer = load_tokenizer(signal.model)
    limit = min(signal.max_tokens, window_of(signal.model, tokenizer))
    some = list(rows.take(places))
    shown = both(some, tokenizer, signal.template, limit, opened=signal.opening, cut=signal.cut)
    size = vocabulary(configuration(signal.model))
    reasons = [
        NOT_EMBEDDED if any(beyond(row.input_ids, size) for row in pair) else pair[0].refused
        for pair in shown
    ]
    found = {at: reason for at, reason in zip(places.tolist(), reasons, strict=True) if reason}
    if len(found) == len(rows):
        raise none_shown(signal.model, list(found.values()))
    return found


def _joined(
    row: Example,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    limit: int,
    front: list[int],
    lead: str | None,
    *,
    cut: bool,
) -> tuple[Encoded, Encoded]:
    """Tokenize prompt and response as one text, as both papers' scripts do.

    The response begins behind as many tokens as the prompt has by itself, so a token that lies across the
    seam (Alpaca's ``:-`` or ``:"``) counts as the prompt's. 1,394 of Alpaca's 52,002 rows have one under its
    prompt and SmolLM2's tokenizer. Where rows are cut, a bare response is left one token more than the row
    has room for. ``front`` is what the tokenizer puts in front of every text; ``lead`` stands before the lone
    response, and where there is none all tokens but the first count.
    """
    try:
        before, reply = last_reply(row, tokenizer, template)
    except InputError as error:
        return _refused(str(error))
    found = text_ids([before, before + reply, lead or "", (lead or "") + reply], tokenizer)
    if isinstance(found, str):
        return _refused(found)
    prompt, whole, opens, lone = ([*front, *ids] for ids in found)
    if len(whole) > limit and (not cut or len(prompt) >= limit):
        return _refused(_too_long(len(prompt), limit))
    start = 0 if lead is None else len(opens)
    room = max(limit - len(prompt) + max(start, 1), 0)
    first, second = _labelled(whole[:limit], len(prompt)), _labelled(lone[:room] if cut else lone, start)
    if first.trained and (second.trained or lead is None):
        return _measurable(first, second, "")
    return _refused(NOTHING_LEFT if whole == prompt else JOINED)


def _labelled(ids: list[int], start: int) -> Encoded:
    """Return ids with labels from ``start`` on."""
    return Encoded(ids, [*[IGNORE] * start, *ids[start:]][: len(ids)])


def _measurable(first: Encoded, second: Encoded, why: str) -> tuple[Encoded, Encoded]:
    """Return both where a loss can be taken of both, else why not, twice."""
    if first.trained and second.trained:
        return first, second
    return _refused(why or (NOTHING_PREDICTS if first.trained else NOTHING_LEFT))


def _refused(why: str) -> tuple[Encoded, Encoded]:
    return Encoded([], [], why), Encoded([], [], why)


def _too_long(before: int, limit: int) -> str:
    """Return what to say of a row beyond the limit, with so many tokens before its response."""
    if before >= limit:
        return f"no response within {limit:,} tokens"
    return f"longer than {limit:,} tokens, prompt and response together"


def _said(row: Encoded, ends: Collection[int], limit: int, *, cut: bool) -> Encoded:
    """Return a row up to its response's end, without labels on what ends turns; why not if too long."""
    if row.refused:
        return row
    labels = list(row.labels)
    for at, label in enumerate(labels):
        closed = at + 1 == len(labels) or labels[at + 1] == IGNORE
        if closed and label != IGNORE and label in ends:
            labels[at] = IGNORE
    stop = max((at + 1 for at, label in enumerate(labels) if label != IGNORE), default=0)
    if stop > limit and (not cut or row.start >= limit):
        return Encoded([], [], _too_long(row.start, limit))
    return Encoded(row.input_ids[:stop][:limit], labels[:stop][:limit])


def opening(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    """Return the ids that open an assistant's turn, behind a beginning-of-text token if there is one.

    They are what stands between a prompt, as the template closes it, and the reply to it.
    """
    if template == "chat" or (template == "auto" and tokenizer.chat_template):
        whole = render([Message("user", "a"), Message("assistant", "b")], tokenizer)
        asked = apply_template([{"role": "user", "content": "a"}], tokenizer)
        closed: list[int] = tokenizer(asked, add_special_tokens=False).input_ids
        before = whole.input_ids[: whole.start]
        pairs = zip(before, closed, strict=False)
        lead = before[sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) :]
        return [*before[:1], *lead] if before[:1] == [tokenizer.bos_token_id] != lead[:1] else lead
    lone = render([Message("assistant", "b")], tokenizer, template=template)
    return lone.input_ids[: lone.start]


def _alone(row: Encoded, lead: list[int]) -> Encoded:
    """Return the row's labelled tokens behind ``lead``, what stands before them left out."""
    said = [(token, label) for token, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORE]
    ids = [token for token, _ in said]
    return Encoded([*lead, *ids], [*[IGNORE] * len(lead), *ids])
