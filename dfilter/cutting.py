"""Where the assistant begins and ends to speak in what a model's own chat template writes.

A template shows a whole conversation at once. Most write its beginnings as they write all of it: then the
prompt of a reply stands at the head of the text, and what follows is the reply.

Others show a turn otherwise once it is history. They take the reasoning out of earlier replies (Qwen3,
GLM-4, LFM2), begin a reply that is asked for with reasoning that a given one lacks (DeepSeek-R1, Qwen3.5),
close the text by a token of its own (Phi-3), or move the system prompt to the last user turn (Mistral). There
a mark takes a turn's place, and shows what the template writes before it and behind it. The text is then what
the model is given when it shall write the last reply, and that reply; earlier replies are labelled as they
are shown there. What cannot be told even so is refused, and so is a row of which the text lacks a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dfilter.errors import InputError, ModelError
from dfilter.replies import answer
from dfilter.template_fields import Memo, Turn, marked_calls, turns_for, unshown
from dfilter.turns import STAND_IN, Piece, apply_template
from dfilter.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template's own arithmetic, look-ups and calls may end in; a recursion too deep is a RuntimeError.
FAILURES = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError)
THOUGHT_ENDS = "</think>"
# No template and no row writes these.
MARK, OTHER, PLACE = "\u2042mark\u2042", "\u2042other\u2042", "\u2042place\u2042"


def chat_pieces(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, eot: bool, memo: Memo, tools: str = ""
) -> list[Piece]:
    """Return what the model's own chat template writes.

    Args:
        messages: the turns.
        tokenizer: the model's.
        eot: whether the end-of-turn token closes replies that the template does not close.
        memo: what was found out about the template, such as what ends a reply.
        tools: definitions of tools.

    Raises:
        InputError: the template refuses or leaves out turns, or it cannot be told which tokens the assistant
            speaks.
        ModelError: there is no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no chat template. "
            "Choose the template alpaca, tulu or turns."
        )

    def write(turns: Sequence[Turn], tools: Sequence[Any] = ()) -> str:
        return template_text(turns, tokenizer, tools=tools)

    source = tokenizer.get_chat_template(tools=[] if tools else None)
    turns, known = turns_for(messages, tools, write, source, memo)
    text, spans = _whole(_Cut(turns, known, tokenizer, memo))
    pieces: list[Piece] = []
    done = 0
    for begin, end, closing in spans:
        pieces.append(Piece(text[done:begin], spoken=False))
        pieces.append(Piece(text[begin:end], spoken=True, eot=eot and not closing.strip()))
        done = end
    return [*pieces, Piece(text[done:], spoken=False)] if done < len(text) else pieces


def _whole(cut: _Cut) -> Spans:
    """Return a conversation cut, with nothing of it left out.

    A text that stands elsewhere, too, does not tell whether its own turn is shown. So once for each order of
    turns marks take the turns' places.
    """
    found = cut.pieces()
    why = unshown(found[0], cut.turns, cut.tools)
    order = ("shows", *map(_form, cut.turns))
    if order not in cut.memo:
        marked = [_marked(turn, f"{PLACE}{at}{PLACE}") for at, turn in enumerate(cut.turns)]
        try:
            cut.memo[order] = unshown(replace(cut, turns=marked).pieces()[0], marked, ())
        except InputError:  # of these turns and not of the row's: nothing is known
            cut.memo[order] = ""
    if why := why or cut.memo[order]:
        raise InputError(
            f"the model's chat template {why}; the templates alpaca, tulu, lines and turns show all of a row"
        )
    return found


def _marked(turn: Turn, mark: str) -> Turn:
    """Return a turn with a mark for its text, at which templates part what holds the end of reasoning."""
    text = f"{mark}{THOUGHT_ENDS}{mark}" if _parted(turn) else mark
    return marked_calls(turn, mark) | ({"content": text} if turn["content"].strip() else {})


def _parted(turn: Turn) -> bool:
    return turn["role"] == "assistant" and THOUGHT_ENDS in answer(turn["content"])


def _form(turn: Turn) -> tuple[str, int, bool, bool]:
    """Return what of a turn a template goes by."""
    return turn["role"], len(turn.get("tool_calls", ())), bool(turn["content"].strip()), _parted(turn)


Span = tuple[int, int, str]  # where a reply begins and ends, and what closes it
Spans = tuple[str, list[Span]]  # a text and the replies in it


@dataclass(frozen=True)
class _Cut:
    """One conversation on its way to be cut."""

    turns: Sequence[Turn]
    tools: Sequence[Any]
    tokenizer: PreTrainedTokenizerBase
    memo: Memo

    def pieces(self) -> Spans:
        """Return the text and the replies in it."""
        return self.by_beginnings() or self.by_marks()

    def by_beginnings(self) -> Spans | None:
        """Cut a text whose beginnings are written as the whole is; none where they are not."""
        full, done = self.text(self.turns), 0
        spans: list[Span] = []
        for at in self.spoken():
            opened = self.opened(at)
            begin, tail = len(opened), self.tail(at)
            if not full.startswith(opened) or begin < done:
                return None
            end = self._end(at, full, begin, tail)
            if end is None:
                return None
            spans.append((begin, end, tail))
            done = end
        return full, spans

    def _end(self, at: int, full: str, begin: int, tail: str) -> int | None:
        """Return where a reply ends in ``full``: behind its end token, before white space."""
        upto = full if at == len(self.turns) - 1 else self.text(self.turns[: at + 1])
        kept = len(upto) - len(tail) + len(tail.rstrip())
        if upto.endswith(tail) and full.startswith(upto[:kept]) and kept >= begin:
            return kept
        # Some templates put an empty line of reasoning before the last reply only.
        content = "" if "tool_calls" in self.turns[at] else self.turns[at]["content"].strip()
        said = begin + len(full[begin:]) - len(full[begin:].lstrip())
        if content and full.startswith(content + tail.rstrip(), said):
            return said + len(content) + len(tail.rstrip())
        return None

    def by_marks(self) -> Spans:
        """Cut a text by what stands around each reply, with a mark in the reply's place."""
        *earlier, last = self.spoken()
        full, asked = self.text(self.turns), self.opened(last)
        before, behind = self.around(self.turns, last)
        own = self.opens_with(self.turns, last)
        shown, added, opening = self.turns, "", False
        if full.startswith(asked):
            begin = len(asked)
        elif full.startswith(before) and asked.startswith(before[: len(before) - len(own)]):
            begin = len(before) - len(own)
        elif full.startswith(before) and last == len(self.turns) - 1:
            shown, added, opening = self.turns[:last], own + full[len(before) :], True
            full, begin = asked + added, len(asked)
        else:
            raise self.uncuttable()
        spans = [self._earlier(at, full, shown, added, opening=opening) for at in earlier]
        closing = self._closing(last, behind)
        spans.append((begin, len(full) - len(behind) + len(closing), closing))
        ordered = [place for span in spans for place in span[:2]]
        if not full.endswith(behind) or ordered != sorted(ordered):
            raise self.uncuttable()
        return full, spans

    def _earlier(self, at: int, full: str, shown: Sequence[Turn], added: str, *, opening: bool) -> Span:
        """Return an earlier reply's place in ``full``, which is ``shown`` as rendered, and ``added``."""
        before, behind = self.around(shown, at, opening=opening)
        behind += added
        own = self.opens_with(shown, at, opening=opening)
        if not (full.startswith(before) and full.endswith(behind) and before.endswith(own)):
            raise self.uncuttable()
        closing = self._closing(at, behind)
        return len(before) - len(own), len(full) - len(behind) + len(closing), closing

    def around(self, turns: Sequence[Turn], at: int, *, opening: bool = False) -> tuple[str, str]:
        """Return what is written before a turn's content and behind it."""
        held: Turn = {"role": turns[at]["role"], "content": MARK}
        mark = MARK
        if "tool_calls" in turns[at]:  # a turn without them may not stand there
            held = marked_calls(turns[at], MARK)
            asked, said = self.text(turns[:at], opening=True), self.text([*turns[:at], held])
            mark = said.removeprefix(asked).removesuffix(self.tail(at))
        marked = self.text([*turns[:at], held, *turns[at + 1 :]], opening)
        before, found, behind = marked.partition(mark)
        if not found or MARK in behind or MARK not in mark:
            raise self.uncuttable()
        return before, behind

    def opens_with(self, turns: Sequence[Turn], at: int, *, opening: bool = False) -> str:
        """Return what a given reply has before its content that the prompt which asks for it has not."""
        if not at or "tool_calls" in turns[at]:
            return ""
        kept = ("role", "name", "tool_call_id")
        question = {name: turns[at - 1][name] for name in kept if name in turns[at - 1]} | {"content": MARK}
        asked = self.text([*turns[: at - 1], question], opening=True)
        said = [*turns[: at - 1], question, _reply(OTHER), *turns[at + 1 :]]
        wanted = asked.partition(MARK)[2]
        given, found, _ = self.text(said, opening).partition(MARK)[2].partition(OTHER)
        if not found or not (given.startswith(wanted) or wanted.startswith(given)):
            raise self.uncuttable()
        return given[len(wanted) :]

    def _closing(self, at: int, behind: str) -> str:
        """Return what closes a reply: all that ends a conversation there, or that up to a special token."""
        tail = self.tail(at).rstrip()
        tokens = [*self.tokenizer.all_special_tokens, *map(str, self.tokenizer.added_tokens_decoder.values())]
        ends = (n for n in range(len(tail), 0, -1) if tail[:n].endswith(tuple(tokens)))
        found = next((tail[:n] for n in (len(tail), *ends) if behind.startswith(tail[:n])), None)
        if found is None:
            raise self.uncuttable()
        return found

    def opened(self, at: int) -> str:
        """Return the prompt of a reply; of one that nothing stands before, what is written before it."""
        if at:
            return self.text(self.turns[:at], opening=True)
        return self.around([_reply("")], 0)[0]

    def spoken(self) -> list[int]:
        """Return the places of the assistant's turns."""
        return [at for at, turn in enumerate(self.turns) if turn["role"] == "assistant"]

    def tail(self, at: int) -> str:
        """Return what the template writes behind the content of an assistant turn that is the last."""
        order = ("ends", *map(_form, self.turns[:at]))
        if order not in self.memo:
            text = self.text([*self.turns[:at], _reply(STAND_IN)])
            if STAND_IN not in text:
                raise self.uncuttable()
            self.memo[order] = text[text.rindex(STAND_IN) + len(STAND_IN) :]
        ending: str = self.memo[order]
        return ending

    def text(self, turns: Sequence[Turn], opening: bool = False) -> str:
        """Return what the template writes."""
        return template_text(turns, self.tokenizer, opening=opening, tools=self.tools)

    @staticmethod
    def uncuttable() -> InputError:
        """Return the error of turns that cannot be told apart."""
        return InputError(
            "the model's chat template writes its turns otherwise when others follow, so it cannot be said "
            "which tokens the assistant speaks"
        )


def _reply(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def template_text(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    *,
    opening: bool = False,
    tools: Sequence[Any] = (),
) -> str:
    """Return :func:`dfilter.turns.apply_template`, a template's refusal as an error of these turns alone.

    Raises:
        InputError: the template refuses the turns, or fails at them.
    """
    from jinja2 import TemplateError

    try:
        return apply_template(turns, tokenizer, opening=opening, tools=tools)
    except (TemplateError, *FAILURES) as error:
        why = str(error) or type(error).__name__
        raise InputError(f"the model's chat template refuses it: {why}") from error
