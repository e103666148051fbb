"""How hard a response is for a model, with its prompt and without."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from dfilter.chat import (
    IGNORE,
    Encoded,
    Template,
    end_ids,
    last_reply,
    opening_ids,
    render,
    render_many,
    style,
)
from dfilter.embed.batches import token_batches
from dfilter.embed.causal import Causal, load, token_losses
from dfilter.embed.device import Placement, place
from dfilter.embed.prefix import read_prefix, without
from dfilter.errors import InputError
from dfilter.identity import ANYHOW, DTYPE, SHOWN, WEIGHTS, spec_of
from dfilter.models import load_tokenizer
from dfilter.turns import apply_template
from dfilter.types import Example, Json, Message
from dfilter.window import window_of

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
LONE = Example("", (Message("assistant", "b"),), {})


@dataclass(frozen=True)
class ResponseLoss:
    """Mean loss of the response's tokens given the prompt, and given nothing.

    A value has the fields ``prompted`` and ``alone``, nats a token, and ``tokens``, their number.
    Both losses are taken over the same tokens, from one load of the model: the response's own, without
    what ends the turn, as in Cherry's and Superfiltering's scripts. Of a row that is longer than
    ``max_tokens`` or than the model's window, 0 tokens are measured and its losses are NaN; without
    ``opening`` it is cut there, and the lone response with it, as Superfiltering's script does.

    Attributes:
        model: smollm2, a hub id, or a folder.
        template: how a row is shown to the model; see :mod:`dfilter.chat`.
        opening: whether what opens the assistant's turn stays in front of the lone response, as Cherry
            keeps "### Response:" (arXiv 2308.12032). Without it nothing predicts the first token, which
            then counts in ``prompted`` only, as in Superfiltering (arXiv 2402.00530).
        max_tokens: of prompt and response together; see above for longer ones.
        dtype: number format; "auto" is bf16 where the hardware computes in it, and the spec names
            which it is.
        device: where to run.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    template: Annotated[Template, SHOWN] = "auto"
    opening: bool = True
    max_tokens: int = 512
    dtype: Annotated[str, DTYPE] = "auto"
    device: Annotated[str, ANYHOW] = "auto"

    kind: ClassVar[str] = "response_loss"
    # 1 counted the token that ends the turn, and cut rows that do not fit; 2 wrote the token that begins a
    # text as text, and cut none for Superfiltering.
    version: ClassVar[int] = 3
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

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return (len(rows),) of the fields above."""
        causal = load(self.model, self.placement())
        limit = min(self.max_tokens, causal.window)
        shown = both(rows, causal.tokenizer, self.template, limit, opened=self.opening)
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
) -> list[tuple[Encoded, Encoded]]:
    """Return each row's response behind its prompt, and alone; nothing where an opened one is too long.

    Args:
        rows: (n,) conversations.
        tokenizer: the model's.
        template: how they are shown.
        limit: tokens of prompt and response together.
        opened: whether what opens the assistant's turn stays in front of the lone response.
    """
    if style(tokenizer, template=template)[0] != "chat":
        return [_joined(row, tokenizer, template, limit, opened=opened) for row in rows]
    ends = set(end_ids(tokenizer, template=template))
    lead = opening(tokenizer, template) if opened else []
    shown = [_said(row, ends, limit) for row in render_many(rows, tokenizer, template=template, turns="last")]
    return [(row, _alone(row, lead)) for row in shown]


def unmeasured(rows: Dataset, places: Sequence[int], signal: ResponseLoss) -> dict[int, str]:
    """Return why rows have no losses, by place, of rows that the model's template and tokenizer can show."""
    if not len(places):
        return {}
    tokenizer = load_tokenizer(signal.model)
    limit = min(signal.max_tokens, window_of(signal.model, tokenizer))
    found = {}
    for at in places:
        ((behind, lone),) = both([rows[at]], tokenizer, signal.template, limit, opened=signal.opening)
        if not behind.input_ids:
            found[at] = f"longer than {limit:,} tokens, prompt and response together"
        elif not behind.trained and len(behind.input_ids) >= limit:
            found[at] = f"the prompt alone fills {limit:,} tokens"
        elif not behind.trained:
            found[at] = "the response is part of the token that ends the prompt"
        elif not lone.trained:
            found[at] = "the response is one token, which nothing predicts where it stands alone"
        else:
            found[at] = "the model gives no finite loss"
    return found


def _joined(
    row: Example, tokenizer: PreTrainedTokenizerBase, template: Template, limit: int, *, opened: bool
) -> tuple[Encoded, Encoded]:
    """Tokenize prompt and response as one text, as both papers' scripts do.

    The response begins behind as many tokens as the prompt has by itself, so a token that lies across the
    seam (Alpaca's ``:-`` or ``:"``) counts as the prompt's. 1,394 of Alpaca's 52,002 rows have one under its
    prompt and SmolLM2's tokenizer.
    """
    try:
        before, reply = last_reply(row, tokenizer, template)
    except InputError:
        return Encoded([], []), Encoded([], [])
    lead = last_reply(LONE, tokenizer, template)[0] if opened else ""
    texts = [before, before + reply, lead, lead + reply]
    front = opening_ids(tokenizer)
    prompt, whole, opens, lone = (
        [*front, *ids] for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    )
    if len(whole) > limit:
        if opened:
            return Encoded([], []), Encoded([], [])
        whole, lone = whole[:limit], lone[: max(0, limit - min(len(prompt), limit) + 1)]
    pairs = ((whole, len(prompt)), (lone, len(opens)))
    first, second = (Encoded(ids, [*[IGNORE] * start, *ids[start:]][: len(ids)]) for ids, start in pairs)
    return first, second


def _said(row: Encoded, ends: Collection[int], limit: int) -> Encoded:
    """Return a row up to its response's end, without what ends the turn; nothing where it is too long."""
    last = max((at for at, label in enumerate(row.labels) if label != IGNORE), default=-1)
    stop = last if last >= 0 and row.labels[last] in ends else last + 1
    return Encoded(row.input_ids[:stop], row.labels[:stop]) if stop <= limit else Encoded([], [])


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
