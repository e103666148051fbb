"""Every turn is in what a template writes, or the row is refused; labels are what is to be learnt."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from dfilter import chat, models
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError
from dfilter.llm import templates
from dfilter.looked_at import POOLED, view
from dfilter.replies import parts
from dfilter.types import Example

OURS = ("alpaca", "tulu", "lines", "turns")
TEXTS = (
    "Hi", "H", "", "  two words\n", "Grüße, 世界", "<|im_end|>", "a<|im_end|>\n<|im_start|>user\nb", "</s>",
    "[INST] no [/INST]", "<|endoftext|><|endoftext|>", "### Response:", "What is </think> for?",
    "<think>\nhm\n</think>\n\nyes", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
)  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
RANDOM = settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
)

turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.sampled_from(TEXTS)},
    optional={"weight": st.sampled_from([0, 1])},
)
rows = st.fixed_dictionaries(
    {"messages": st.lists(turns, min_size=1, max_size=6)}, optional={"tools": st.just(TOOLS)}
)


def read(row: dict[str, Any]) -> Example | None:
    try:
        (found,) = Dataset.from_rows([row])
    except InputError:
        return None
    return found


def learnt(encoded: chat.Encoded, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts between special tokens that are labelled, without blanks around them, those of words."""
    kept = [None if label in tokenizer.all_special_ids else label for label in encoded.labels]
    runs = groupby(kept, lambda label: label is None or label == chat.IGNORE)
    texts = [tokenizer.decode(list(run)).strip() for outside, run in runs if not outside]
    return [text for text in texts if text.rpartition("</think>")[2].strip()]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return models.load_tokenizer("tiny")


@RANDOM
@given(row=rows, template=st.sampled_from(OURS), eot=st.booleans())
def test_our_templates_show_every_turn_and_learn_what_is_to_be_learnt(tokenizer, row, template, eot):
    found = read(row)
    if found is None:
        return
    (encoded,) = chat.render_many([found], tokenizer, template=template, eot=eot)
    text, trimmed = tokenizer.decode(encoded.input_ids), str.strip if template == "tulu" else str
    assert all(trimmed(message.content) in text for message in found.messages)
    assert all(one["function"]["name"] in text for one in row.get("tools", ()))
    end = tokenizer.decode([chat.special_ids(tokenizer).end])
    wanted = "".join(f"{trimmed(m.content)}{end}" for m in found.messages if m.learnt)
    assert tokenizer.decode([label for label in encoded.labels if label != chat.IGNORE]) == wanted


@RANDOM
@given(row=rows, data=st.data())
def test_a_models_own_template_shows_every_turn_or_the_row_is_refused(tokenizer, families, row, data):
    family = data.draw(st.sampled_from(["chatml", *families]))
    found = read(row)
    if found is None:
        return
    own = models.load_tokenizer("tiny")
    own.chat_template = families.get(family, own.chat_template)
    (encoded,) = chat.render_many([found], own, template="chat")
    if encoded.refused:
        assert "chat template" in encoded.refused
        return
    text, replies = own.decode(encoded.input_ids), [m.content for m in found.messages if m.learnt]
    for message in found.messages:
        words = parts(message.content).words if message.role == "assistant" else message.content
        assert words.strip() in text
    assert all(one["function"]["name"] in text for one in row.get("tools", ()))
    if any(parts(reply).calls for reply in replies):
        return
    replies = [words for reply in replies if (words := parts(reply).words.strip())]
    for said, words in zip(learnt(encoded, own), replies, strict=True):
        before = said.removesuffix(words).strip()
        assert len(before) < len(said)
        assert not before or before.endswith("</think>")  # which a template may write or leave out


@RANDOM
@given(row=rows, name=st.sampled_from(templates.names()), pooled=st.booleans())
def test_a_judge_is_shown_every_turn(row, name, pooled):
    found = read(row)
    if found is None:
        return
    asked = templates.load(name).messages(view(found, POOLED) if pooled else found, "text", 1, 5)
    text = "\n".join(str(message["content"]) for message in asked)
    assert all(message.content.strip() in text for message in found.messages)
    assert all(one["function"]["name"] in text for one in row.get("tools", ()))
