"""Messages become token ids and labels; training, losses, gradients and judging all go through here.

A conversation is rendered to text by a template, cut where the assistant begins and ends to speak,
and each piece is tokenized on its own. So the ids before a response are exactly the ids that a model
is given when it shall write that response, and the mask is exact: no token lies on both sides. A template
of ours begins with whatever the tokenizer puts in front of a text; a chat template writes that itself.

Templates:

    auto      what the model was fine-tuned with here, else its own chat template, else alpaca
    chat      the model's own chat template
    alpaca    Stanford Alpaca's prompt (github.com/tatsu-lab/stanford_alpaca, train.py), for base models
    tulu      <|user|> and <|assistant|> on lines of their own, as LESS trains (arXiv 2402.04333)
    lines     instruction, input and response, a line break behind each (Superfiltering, arXiv 2402.00530)
    turns     the bare turns; with ``eot`` each is closed by that token (LIMA, arXiv 2305.11206, §3)

A chat template that writes today's date is given a constant one (:func:`template_date`).

What a template or a tokenizer cannot show is that row's own matter: :func:`render_many` says why and goes on.
Names of control tokens in a row's text stay text (:mod:`dfilter.control_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dfilter import control_tokens
from dfilter.control_tokens import as_text, reply_as_text
from dfilter.cutting import chat_pieces
from dfilter.data.shapes import is_blank
from dfilter.encoded import IGNORE, Encoded
from dfilter.errors import InputError, ModelError
from dfilter.replies import answer
from dfilter.template_fields import Memo, defined
from dfilter.token_ids import front_ids, piece_ids
from dfilter.turns import (
    STAND_IN,
    Piece,
    alpaca_pieces,
    line_pieces,
    shown_input,
    template_date,
    tulu_pieces,
    turn_pieces,
)
from dfilter.types import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IGNORE",
    "Encoded",
    "Specials",
    "Template",
    "add_eot",
    "closes_replies",
    "end_ids",
    "eot_id",
    "remember_style",
    "render",
    "render_many",
    "render_prompt",
    "special_ids",
    "style",
    "template_date",
]

Template: TypeAlias = Literal["auto", "chat", "alpaca", "tulu", "lines", "turns"]
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|eot|>")  # the first one a tokenizer has
NEW_END_OF_TURN = "<|eot|>"
TRAINED_TEMPLATE = "dfilter_template"  # names in tokenizer_config.json
TRAINED_EOT = "dfilter_eot"


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "auto",
    max_tokens: int | None = None,
    eot: bool | None = None,
    context: str = "",
    tools: str = "",
    turns: Literal["all", "last"] = "all",
) -> Encoded:
    """Return ids and labels of one conversation.

    The labels cover what the assistant says and the token that ends its turn, not the white space
    behind that token, which no model is asked to write. Turns that are not to be learnt have no labels.

    Args:
        messages: the turns.
        tokenizer: the model's.
        template: see the module.
        max_tokens: keep the first so many tokens, as Alpaca and LESS do; the row may lose its response.
        eot: close every turn by the end-of-turn token, where the template has none of its own; none
            is what the model was fine-tuned with, else false.
        context: the row's ``Example.context``; alpaca's template shows it under "Input".
        tools: the row's ``Example.tools``.
        turns: label every assistant turn that is to be learnt, or the last one.

    Raises:
        InputError: the template or the tokenizer cannot show the conversation, or it cannot be said which
            tokens of it the assistant speaks.
        ModelError: there is no chat template, or no end token.
    """
    pieces = _pieces(messages, tokenizer, template, eot, context, tools)
    (found,) = _encode([pieces], tokenizer, template, max_tokens, turns)
    if found.refused:
        raise InputError(found.refused)
    return found


def render_many(
    rows: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "auto",
    max_tokens: int | None = None,
    eot: bool | None = None,
    turns: Literal["all", "last"] = "all",
) -> list[Encoded]:
    """Return :func:`render` of every row, with its context; several times faster than row by row.

    A row that cannot be shown stops nothing: it comes back without ids, and ``refused`` says why.

    Raises:
        ModelError: there is no chat template, or no end token.
    """
    pieces: list[list[Piece] | str] = []
    memo: Memo = {}
    for row in rows:
        try:
            shown = _pieces(row.messages, tokenizer, template, eot, shown_input(row), row.tools, memo)
            pieces.append(shown)
        except InputError as error:
            pieces.append(str(error))
    return _encode(pieces, tokenizer, template, max_tokens, turns)


def last_reply(row: Example, tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[str, str]:
    """Return as text what stands before a row's last reply that is to be learnt, and it without its end.

    The text has marks within names of control tokens, see :mod:`dfilter.control_tokens`.

    Raises:
        InputError: the template cannot show the conversation.
        ModelError: as in :func:`render`.
    """
    pieces = _pieces(row.messages, tokenizer, template, False, shown_input(row), row.tools)
    last = max((at for at, piece in enumerate(pieces) if piece.spoken and piece.learnt), default=-1)
    if last < 0:
        raise InputError("the reply is empty")
    end = str(tokenizer.decode([special_ids(tokenizer).end]))
    return "".join(piece.text for piece in pieces[:last]), pieces[last].text.removesuffix(end)


def render_prompt(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "auto",
    max_tokens: int | None = None,
    eot: bool | None = None,
    context: str = "",
    tools: str = "",
) -> list[int]:
    """Return the ids after which the assistant is to speak.

    They equal what :func:`render` puts before the labels of a response to the same messages.

    Args:
        messages: the turns so far; an assistant turn at the end is left out (it is the reference).
        tokenizer: the model's.
        template: see the module.
        max_tokens: keep the last so many tokens, so that the question and the assistant's opening stay.
        eot: as in :func:`render`.
        context: as in :func:`render`.
        tools: as in :func:`render`.

    Raises:
        InputError: the template or the tokenizer cannot show the turns, or none of them asks for an answer.
        ModelError: as in :func:`render`.
    """
    asked = list(messages)
    while asked and asked[-1].role == "assistant":
        asked.pop()
    if not asked:
        raise InputError("there is no turn that an assistant could answer")
    pieces = _pieces([*asked, Message("assistant", STAND_IN)], tokenizer, template, eot, context, tools)
    last = max(at for at, piece in enumerate(pieces) if piece.spoken)
    (found,) = _encode([pieces[:last]], tokenizer, template, None, "all")
    if found.refused:
        raise InputError(found.refused)
    return found.input_ids if max_tokens is None else found.input_ids[-max_tokens:]


def end_ids(
    tokenizer: PreTrainedTokenizerBase, *, template: Template = "auto", eot: bool = False
) -> list[int]:
    """Return the ids at which a reply is over: the end token, and the one that ends a turn."""
    ends = [special_ids(tokenizer).end]
    probe = render([Message("user", "a"), Message("assistant", "b")], tokenizer, template=template, eot=eot)
    last = [label for label in probe.labels if label != IGNORE][-1]
    if last in set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder):
        ends.append(last)
    return sorted(set(ends))


def closes_replies(
    tokenizer: PreTrainedTokenizerBase, *, template: Template = "auto", eot: bool = False
) -> bool:
    """Return whether a reply is rendered with a token at its end that ends generation: one to be learnt."""
    probe = render([Message("user", "a"), Message("assistant", "b")], tokenizer, template=template, eot=eot)
    last = [label for label in probe.labels if label != IGNORE][-1]
    return last in end_ids(tokenizer, template=template, eot=eot)


@dataclass(frozen=True, slots=True)
class Specials:
    """The ids that pad a batch and end a text. They may be the same: labels and attention are explicit."""

    pad: int
    end: int


def special_ids(tokenizer: PreTrainedTokenizerBase) -> Specials:
    """Return padding and end token; where one is missing the other, or an end-of-turn token, stands in.

    Raises:
        ModelError: the tokenizer has none of them.
    """
    eos = tokenizer.eos_token_id
    end = eos if isinstance(eos, int) else eot_id(tokenizer)
    if end is None:
        raise ModelError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no end token and none of "
            f"{', '.join(END_OF_TURN)} that could serve. Set its eos_token, or train with eot."
        )
    pad = tokenizer.pad_token_id
    return Specials(pad=pad if isinstance(pad, int) else end, end=end)


def style(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "auto",
    eot: bool | None = None,
    base: Template = "alpaca",
) -> tuple[Template, bool]:
    """Return the template that "auto" stands for, and whether end-of-turn tokens are used.

    Args:
        tokenizer: the model's.
        template: what was asked for; anything but "auto" is returned as it is.
        eot: what was asked for; none asks the tokenizer.
        base: what a model without chat template takes.
    """
    trained = tokenizer.init_kwargs
    if template == "auto":
        template = trained.get(TRAINED_TEMPLATE) or ("chat" if tokenizer.chat_template else base)
    return template, bool(trained.get(TRAINED_EOT, False)) if eot is None else eot


def remember_style(tokenizer: PreTrainedTokenizerBase, template: Template, eot: bool) -> None:
    """Write template and eot into the tokenizer, where they are saved with it and "auto" finds them."""
    tokenizer.init_kwargs[TRAINED_TEMPLATE] = template
    tokenizer.init_kwargs[TRAINED_EOT] = eot


def eot_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the end-of-turn token's id, none when the tokenizer has no such token."""
    known = tokenizer.get_vocab()
    return next((known[token] for token in END_OF_TURN if token in known), None)


def add_eot(tokenizer: PreTrainedTokenizerBase, model: Any = None) -> int:
    """Return the end-of-turn token's id; a tokenizer without one gets it, and the model a row for it.

    The new row is the mean of the others, so that it starts out as unlikely as an average token.
    """
    found = eot_id(tokenizer)
    if found is None:
        tokenizer.add_special_tokens({"additional_special_tokens": [NEW_END_OF_TURN]})
        found = tokenizer.get_vocab()[NEW_END_OF_TURN]
    if model is not None and model.get_input_embeddings().weight.shape[0] <= found:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        _fill_with_mean(model, found)
    return found


def _fill_with_mean(model: Any, first: int) -> None:
    import torch

    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[first:] = layer.weight[:first].mean(0)


def _pieces(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    eot: bool | None,
    context: str,
    tools: str = "",
    memo: Memo | None = None,
) -> list[Piece]:
    """Return a conversation's pieces; ``memo`` remembers what is found out about tokenizer and template."""
    memo = {} if memo is None else memo
    if "names" not in memo:
        memo["names"] = control_tokens.names(tokenizer)
    template, eot = style(tokenizer, template=template, eot=eot)
    if template == "chat":
        return _learnt(chat_pieces(messages, tokenizer, eot, memo, tools), messages)
    end = "" if eot else str(tokenizer.decode([special_ids(tokenizer).end]))
    build = {"alpaca": alpaca_pieces, "tulu": tulu_pieces, "lines": line_pieces, "turns": turn_pieces}
    shown = [_as_text(message, memo["names"]) for message in defined(messages, tools)]
    pieces = _learnt(build[template](shown, end, as_text(context, memo["names"])), messages)
    if eot:  # headers tell turns apart in the other templates, so only replies need closing there
        return [replace(p, eot=p.spoken or (template == "turns" and p is not pieces[-1])) for p in pieces]
    return pieces


def _as_text(message: Message, names: re.Pattern[str] | None) -> Message:
    shown = reply_as_text if message.role == "assistant" else as_text
    return replace(message, content=shown(message.content, names))


def _learnt(pieces: Sequence[Piece], messages: Sequence[Message]) -> list[Piece]:
    """Return pieces of which those that are not to be learnt say so: marked turns, and empty ones."""
    said = [message for message in messages if message.role == "assistant"]
    wanted = iter([message.trained and not is_blank(answer(message.content)) for message in said])
    return [replace(piece, learnt=False) if piece.spoken and not next(wanted) else piece for piece in pieces]


def _encode(
    rows: Sequence[Sequence[Piece] | str],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_tokens: int | None,
    turns: Literal["all", "last"],
) -> list[Encoded]:
    """Tokenize and label rows; those that are the reason of a refusal pass it on."""
    ids = piece_ids([[] if isinstance(row, str) else row for row in rows], tokenizer)
    front = [] if style(tokenizer, template=template)[0] == "chat" else front_ids(tokenizer)
    closing = (
        _closing(tokenizer) if any(p.eot for row in rows if not isinstance(row, str) for p in row) else []
    )
    done: list[Encoded] = []
    for row, found in zip(rows, ids, strict=True):
        refused = row if isinstance(row, str) else found if isinstance(found, str) else ""
        if isinstance(row, str) or isinstance(found, str):
            done.append(Encoded([], [], refused))
            continue
        spoken = [at for at, piece in enumerate(row) if piece.spoken and piece.learnt]
        wanted = set(spoken if turns == "all" else spoken[-1:])
        input_ids = list(front)
        labels = [IGNORE] * len(front)
        for at, (piece, own) in enumerate(zip(row, found, strict=True)):
            part = own + (closing if piece.eot else [])
            input_ids += part
            labels += part if at in wanted else [IGNORE] * len(part)
        lost = [] if max_tokens is None else labels[max_tokens:]
        cut = any(label != IGNORE for label in lost)
        done.append(Encoded(input_ids[:max_tokens], labels[:max_tokens], cut=cut))
    return done


def _closing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    found = eot_id(tokenizer)
    if found is None:
        raise ModelError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no end-of-turn token. "
            "Give it one with chat.add_eot, or render without eot."
        )
    return [found]
