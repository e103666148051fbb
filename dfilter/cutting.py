"""Where the assistant begins and ends to speak in what a model's own chat template writes.

A template shows a whole conversation at once. Most write its beginnings as they write all of it: then the
prompt of a reply stands at the head of the text, and what follows is the reply.

Others show a turn otherwise once it is history. They take the reasoning out of earlier replies (Qwen3,
GLM-4, LFM2), begin a reply that is asked for with reasoning that a given one lacks (DeepSeek-R1, Qwen3.5),
close the text by a token of its own (Phi-3), or move the system prompt to the last user turn (Mistral). There
a mark takes a turn's place, and shows what the template writes before it and behind it. The text is then what
the model is given when it shall write the last reply, and that reply; earlier replies are labelled as they
are shown there. What cannot be told even so is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfilter.errors import InputError, ModelError
from dfilter.turns import STAND_IN, Piece, apply_template
from dfilter.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template's own arithmetic, look-ups and calls may end in; a recursion too deep is a RuntimeError.
FAILURES = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError)
MARK, OTHER = "\u2042mark\u2042", "\u2042other\u2042"  # no template and no row writes these


def chat_pieces(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    eot: bool,
    tails: dict[tuple[str, ...], str],
) -> list[Piece]:
    """Return what the model's own chat template writes; ``tails`` remembers what ends a reply, by roles.

    Raises:
        InputError: the template refuses the turns, or it cannot be told which tokens the assistant speaks.
        ModelError: there is no chat template.
    """
    cut = _Cut(messages, tokenizer, tails)
    text, spans = cut.by_beginnings() or cut.by_marks()
    pieces: list[Piece] = []
    done = 0
    for begin, end, closing in spans:
        pieces.append(Piece(text[done:begin], spoken=False))
        pieces.append(Piece(text[begin:end], spoken=True, eot=eot and not closing.strip()))
        done = end
    return [*pieces, Piece(text[done:], spoken=False)] if done < len(text) else pieces


Span = tuple[int, int, str]  # where a reply begins and ends, and what closes it
Spans = tuple[str, list[Span]]  # a text and the replies in it


@dataclass(frozen=True)
class _Cut:
    """One conversation on its way to be cut."""

    messages: Sequence[Message]
    tokenizer: PreTrainedTokenizerBase
    tails: dict[tuple[str, ...], str]

    def by_beginnings(self) -> Spans | None:
        """Cut a text whose beginnings are written as the whole is; none where they are not."""
        full, done = self.text(self.messages), 0
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
        upto = full if at == len(self.messages) - 1 else self.text(self.messages[: at + 1])
        kept = len(upto) - len(tail) + len(tail.rstrip())
        if upto.endswith(tail) and full.startswith(upto[:kept]) and kept >= begin:
            return kept
        # Some templates put an empty line of reasoning before the last reply only.
        content = self.messages[at].content.strip()
        said = begin + len(full[begin:]) - len(full[begin:].lstrip())
        if full.startswith(content + tail.rstrip(), said):
            return said + len(content) + len(tail.rstrip())
        return None

    def by_marks(self) -> Spans:
        """Cut a text by what stands around each reply, with a mark in the reply's place."""
        *earlier, last = self.spoken()
        full, asked = self.text(self.messages), self.opened(last)
        before, behind = self.around(self.messages, last)
        own = self.opens_with(self.messages, last)
        shown, added, opening = self.messages, "", False
        if full.startswith(asked):
            begin = len(asked)
        elif full.startswith(before) and asked.startswith(before[: len(before) - len(own)]):
            begin = len(before) - len(own)
        elif full.startswith(before) and last == len(self.messages) - 1:
            shown, added, opening = self.messages[:last], own + full[len(before) :], True
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

    def _earlier(self, at: int, full: str, shown: Sequence[Message], added: str, *, opening: bool) -> Span:
        """Return an earlier reply's place in ``full``, which is ``shown`` as rendered, and ``added``."""
        before, behind = self.around(shown, at, opening=opening)
        behind += added
        own = self.opens_with(shown, at, opening=opening)
        if not (full.startswith(before) and full.endswith(behind) and before.endswith(own)):
            raise self.uncuttable()
        closing = self._closing(at, behind)
        return len(before) - len(own), len(full) - len(behind) + len(closing), closing

    def around(self, messages: Sequence[Message], at: int, *, opening: bool = False) -> tuple[str, str]:
        """Return what is written before a turn's content and behind it."""
        marked = self.text([*messages[:at], Message(messages[at].role, MARK), *messages[at + 1 :]], opening)
        before, found, behind = marked.partition(MARK)
        if not found or MARK in behind:
            raise self.uncuttable()
        return before, behind

    def opens_with(self, messages: Sequence[Message], at: int, *, opening: bool = False) -> str:
        """Return what a given reply has before its content that the prompt which asks for it has not."""
        if not at:
            return ""
        question = Message(messages[at - 1].role, MARK)
        asked = self.text([*messages[: at - 1], question], opening=True)
        said = [*messages[: at - 1], question, Message("assistant", OTHER), *messages[at + 1 :]]
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
            return self.text(self.messages[:at], opening=True)
        return self.around([Message("assistant", "")], 0)[0]

    def spoken(self) -> list[int]:
        """Return the places of the assistant's turns."""
        return [at for at, message in enumerate(self.messages) if message.role == "assistant"]

    def tail(self, at: int) -> str:
        """Return what the template writes behind the content of an assistant turn that is the last."""
        roles = tuple(m.role for m in self.messages[: at + 1])
        if roles not in self.tails:
            text = self.text([*self.messages[:at], Message("assistant", STAND_IN)])
            if STAND_IN not in text:
                raise self.uncuttable()
            self.tails[roles] = text[text.rindex(STAND_IN) + len(STAND_IN) :]
        return self.tails[roles]

    def text(self, messages: Sequence[Message], opening: bool = False) -> str:
        """Return what the template writes."""
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of '{self.tokenizer.name_or_path}' has no chat template. "
                "Choose the template alpaca, tulu or turns."
            )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return template_text(turns, self.tokenizer, opening=opening)

    @staticmethod
    def uncuttable() -> InputError:
        """Return the error of turns that cannot be told apart."""
        return InputError(
            "the model's chat template writes its turns otherwise when others follow, so it cannot be said "
            "which tokens the assistant speaks"
        )


def template_text(
    turns: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, *, opening: bool = False
) -> str:
    """Return :func:`dfilter.turns.apply_template`, a template's refusal as an error of these turns alone.

    Raises:
        InputError: the template refuses the turns, or fails at them.
    """
    from jinja2 import TemplateError

    try:
        return apply_template(turns, tokenizer, opening=opening)
    except (TemplateError, *FAILURES) as error:
        why = str(error) or type(error).__name__
        raise InputError(f"the model's chat template refuses it: {why}") from error
