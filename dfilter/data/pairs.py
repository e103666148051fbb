"""A prompt and an answer in columns of their own, put together."""

from __future__ import annotations

import re
from typing import Any

from dfilter.data.messages import Turn, listed
from dfilter.data.rejects import RowError

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def joined(asked: list[Turn], said: list[Turn], prompt: str, answer: str) -> list[Turn]:
    """Return a prompt and an answer as one; the answer's column may hold the whole dialogue.

    Args:
        asked: the prompt's turns, none where there is nothing in it.
        said: the answer's turns.
        prompt: the prompt's column.
        answer: the answer's column.

    Raises:
        RowError: the answer's column begins with a turn that is not the assistant's, and is not the prompt's
            dialogue either.
    """
    if said[: len(asked)] == asked:
        return said
    goes_on = not said or said[0][0] not in {"system", "user"}
    if goes_on or (asked[-1][0] == "assistant" and said[0][0] == "user" and not {*asked} & {*said}):
        return [*asked, *said]
    system = asked[:1] if asked[0][0] == "system" and said[0][0] != "system" else []
    own = [(role, text.strip()) for role, text in said]
    wanted = [(role, text.strip()) for role, text in asked if role != "system" and text.strip()]
    rest = iter(own)
    if not all(turn in rest for turn in wanted):  # in this order
        raise RowError(
            f"'{answer}' holds a dialogue in which '{prompt}' does not occur; take away one of the two "
            "columns, or write the answer alone"
        )
    return [*system, *said]


def transcript(text: str) -> list[Turn]:
    """Return the turns of a text in which each begins "Human:" or "Assistant:" (HH-RLHF).

    One at the end that says nothing is where the answer goes.
    """
    _, *parts = _SPEAKER.split(f"\n\n{text.strip()}")
    turns = [(_SPEAKERS[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]
    return turns[:-1] if len(turns) > 1 and turns[-1] == ("assistant", "") else turns


def is_transcript(text: Any) -> bool:
    """Return whether a value is a text as :func:`transcript` takes apart."""
    return isinstance(text, str) and text.lstrip().startswith("Human:")


def awaits_answer(text: Any) -> bool:
    """Return whether a value is such a text up to where the assistant speaks."""
    return is_transcript(text) and text.rstrip().endswith("\n\nAssistant:")


def refuse_texts(value: Any, column: str) -> None:
    """Refuse several answers in the column of one: they are no turns that follow one another."""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        raise RowError(
            f"'{column}' is a list of {len(value)} text{'s' * (len(value) != 1)}, expected one answer; "
            "choose one and write it as text"
        )


def history(value: Any) -> list[Turn]:
    """Return the turns before an instruction: pairs of question and answer (LLaMA-Factory)."""
    turns: list[Turn] = []
    for pair in listed(value, "history") if value else ():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowError("'history' is no list of pairs of texts")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns
