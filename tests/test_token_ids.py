"""What a model reads is what its own tokenizer makes of the text."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from dfilter import chat
from dfilter.token_ids import front_ids, piece_ids
from dfilter.turns import Piece
from dfilter.types import Message

KINDS = (
    "llama", "llama, legacy", "byte level", "byte level, one in front", "byte level, two in front", "opt",
)  # fmt: skip
FRONTS = dict(zip(KINDS, (1, 1, 0, 1, 2, 1), strict=True))
ASKED = (Message("user", "Say the word."),)
WRITTEN = {
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nSay the word.\n\n### Response:",
    "tulu": "<|user|>\nSay the word.\n<|assistant|>\n",
    "lines": "Say the word.\n",
    "turns": "Say the word.\n\n",
}


@pytest.mark.parametrize("template", WRITTEN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_prompt_and_its_reply_are_the_tokenizers_own_ids(
    kind: str, template: Any, tokenizers: ModuleType
) -> None:
    tokenizer = tokenizers.KINDS[kind]()
    prompt, end = tokenizer(WRITTEN[template]).input_ids, tokenizer.eos_token
    assert chat.render_prompt(ASKED, tokenizer, template=template) == prompt
    whole = chat.render((*ASKED, Message("assistant", "no, the one")), tokenizer, template=template)
    read = tokenizer(f"{WRITTEN[template]}no, the one{end}").input_ids
    assert whole.input_ids[: len(read)] == read
    assert whole.start == len(prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_put_in_front_stands_in_front(kind: str, tokenizers: ModuleType) -> None:
    tokenizer = tokenizers.KINDS[kind]()
    front = front_ids(tokenizer)
    assert len(front) == FRONTS[kind]
    assert tokenizer("no").input_ids[: len(front)] == front
    (found,) = piece_ids([[Piece("Say", spoken=False)]], tokenizer)
    assert [*front, *found[0]] == tokenizer("Say").input_ids


def test_what_a_tokenizer_puts_behind_a_text_is_not_in_front(tokenizers: ModuleType) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizers.byte_level()
    ends = [("<|im_end|>", tokenizer.get_vocab()["<|im_end|>"])]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A <|im_end|>", special_tokens=ends)
    assert front_ids(tokenizer) == []


@pytest.mark.parametrize(
    "texts",
    [
        ("Say", "the one"),  # no space comes in between
        ("Say\n", "\nthe one"),
        ("Say", "-one"),
        ("", "the one"),  # the first that is not empty begins the text
        ("Say", "", " the one"),
        ("Say</s>", "the one"),
        ("Say</s>", "", "\nthe"),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "llama, legacy"])
def test_pieces_are_read_as_they_stand_in_the_text(
    kind: str, texts: tuple[str, ...], tokenizers: ModuleType
) -> None:
    tokenizer = tokenizers.KINDS[kind]()
    (found,) = piece_ids([[Piece(text, spoken=False) for text in texts]], tokenizer)
    whole = tokenizer("".join(texts), add_special_tokens=False).input_ids
    assert [token for ids in found for token in ids] == whole


def test_a_piece_behind_an_end_of_turn_token_stands_behind_a_special_token(tokenizers: ModuleType) -> None:
    tokenizer = tokenizers.legacy()
    (found,) = piece_ids([[Piece("Say", spoken=True, eot=True), Piece("the", spoken=False)]], tokenizer)
    assert found[1] == tokenizer("</s>the", add_special_tokens=False).input_ids[1:]
