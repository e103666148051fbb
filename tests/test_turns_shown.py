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
from dfilter.looked_at import pooled
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
    max_examples=40,
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
    said = [m for m in found.messages if m.learnt and m.content.strip()]
    wanted = "".join(f"{trimmed(m.content)}{end}" for m in said)
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
@given(row=rows, name=st.sampled_from(templates.names()))
def test_a_judge_is_shown_every_turn(row, name):
    try:
        (found,) = pooled(Dataset.from_rows([row]))
    except InputError:
        return
    asked = templates.load(name).messages(found, "text", 1, 5)
    text = "\n".join(str(message["content"]) for message in asked)
    assert all(message.content.strip() in text for message in found.messages)
    assert all(one["function"]["name"] in text for one in row.get("tools", ()))


def shown(messages: list[dict[str, Any]], family: str, families: dict[str, str], **columns: Any) -> str:
    """What a family's template makes of a row, what is learnt between bars; or why the row is refused."""
    tokenizer = models.load_tokenizer("tiny")
    tokenizer.chat_template = families.get(family, tokenizer.chat_template)
    (row,) = Dataset.from_rows([{"messages": messages, **columns}])
    template: Any = family if family in OURS else "chat"
    (encoded,) = chat.render_many([row], tokenizer, template=template)
    runs = groupby(zip(encoded.input_ids, encoded.labels, strict=True), lambda pair: pair[1] != chat.IGNORE)
    texts = [(learnt, tokenizer.decode([token for token, _ in run])) for learnt, run in runs]
    return encoded.refused or "".join(f"|{text}|" if learnt else text for learnt, text in texts)


CALL = {"id": "call_Xy7", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLING = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
    {"role": "tool", "tool_call_id": "call_Xy7", "content": "2"},
    {"role": "assistant", "content": "Two.", "weight": 0},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "No.", "thinking": "so"},
]
DEFINED = '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}'


def test_calls_and_reasoning_reach_a_template_in_its_own_form(families):
    assert shown(CALLING, "qwen3, tools", families, tools=TOOLS) == (
        f"<|im_start|>system\n# Tools\n<tools>\n{DEFINED}\n</tools><|im_end|>\n"
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
        '|<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>|\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n|<think>\nso\n</think>\n\nNo.<|im_end|>|\n"
    )
    bare = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    plain = [CALLING[0], bare, CALLING[2], CALLING[3] | {"weight": 1}]
    assert shown(plain[:2], "text calls", families) == (
        '<|im_start|>user\nQ<|im_end|><|im_start|>assistant\n|add({"a": 1})<|im_end|>|'
    )
    assert shown(plain, "llama3.1", families) == (
        "<|im_start|>system\n\n<|im_end|><|im_start|>user\n\nQ<|im_end|>"
        '<|im_start|>assistant\n\n|{"name": "add", "parameters": {"a": 1}}<|im_end|>|'
        '<|im_start|>ipython\n\n"2"<|im_end|><|im_start|>assistant\n\n|Two.<|im_end|>|'
    )


def test_what_a_template_has_no_field_for_stands_in_the_text(families):
    text = (
        f"The following tools can be called:\n{DEFINED}\n\n### Instruction:\nQ\n\n### Response:"
        '|<think>\nhm\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
        "<|im_end|>|\n\n### Instruction:\n2\n\n### Response:Two.<|im_end|>\n\n### Instruction:\nAnd?"
        "\n\n### Response:"
        "|<think>\nso\n</think>\n\nNo.<|im_end|>|"
    )
    assert shown(CALLING, "alpaca", families, tools=TOOLS) == text
    told = shown(CALLING, "chatml", families, tools=TOOLS)
    assert told.startswith(f"<|im_start|>system\nThe following tools can be called:\n{DEFINED}<|im_end|>")
    assert "call_Xy7" not in text + told


def test_what_a_template_leaves_out_refuses_the_row(families):
    greeted = [{"role": "assistant", "content": "Hello."}, *CALLING[-2:]]
    later = [*CALLING[-2:], {"role": "system", "content": "And?"}, *CALLING[-2:]]
    # raullenchai/Rapid-MLX#1765: dropped without a word; here its text stands in another turn, too.
    assert "does not show turn 3 (system) as it is" in shown(later, "forgetful", families)
    assert "the templates alpaca, tulu, lines and turns show all" in shown(later, "forgetful", families)
    assert "leaves out the reasoning of the reply" in shown(CALLING[-2:], "deepseek", families)
    both = [CALLING[0], {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}]
    assert "does not show turn 2 (assistant)" in shown(both, "llama3.1", families)
    twice = [CALLING[0], {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}]
    assert "only supports single tool-calls at once" in shown(twice, "llama3.1", families)
    asked = {"content": "What is </think> for?"}  # which stands in both turns, and is parted in one
    same = [{"role": "user"} | asked, {"role": "assistant"} | asked]
    for family in ("deepseek", "qwen3, tools"):
        assert "does not show turn 2 (assistant)" in shown(same, family, families)
    assert shown(greeted, "chatml", families).count("|Hello.<|im_end|>|") == 1  # axolotl#723


@pytest.mark.parametrize("said", ["", "\u200b\u2060", "<think>\nhm\n</think>\n\n"])
@pytest.mark.parametrize("family", [*OURS, "chatml"])
def test_an_empty_reply_within_a_conversation_is_not_learnt(families, said, family):
    empty = [CALLING[0], {"role": "assistant", "content": said}]
    text = shown(
        [*empty, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}],
        family,
        families,
    )
    assert text.count("|No.<|im_end|>|") == text.count("<|im_end|>|") == 1
    assert "And?" in text


def calling(*arguments: dict[str, Any], name: str = "add") -> dict[str, Any]:
    calls = [{"id": "x", "function": {"name": name, "arguments": one}} for one in arguments]
    return {"role": "assistant", "content": "", "tool_calls": calls}


@pytest.mark.parametrize(
    "second", [calling({"a": 1}, {"a": 2}), calling({"a": 1}, {"a": 1}), calling({"a": "Q"}, {"a": "add"})]
)
def test_a_template_that_shows_one_of_two_calls_refuses_the_row(families, second):
    assert shown([CALLING[0], calling({"a": 1})], "first call", families).endswith('|add {"a": 1}<|im_end|>|')
    assert "does not show turn 2 (assistant)" in shown([CALLING[0], second], "first call", families)
    assert "refuse" not in shown([CALLING[0], second], "qwen3, tools", families)


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "add", "arguments": {"a": 1.50, "b": 1e5, "c": null, "d": "caf\\u00e9"}}',
        '{"name": "add", "arguments": {"a": 1}, "thought": "look first"}',
        '{"name":"add","parameters":{"a":1}}',
    ],
)
@pytest.mark.parametrize("thought", ["", "<think>\nhm\n</think>\n\n"])
def test_calls_in_a_text_stay_as_they_were_written(families, call, thought):
    text = f"Let me see.\n<tool_call>\n{call}\n</tool_call>"
    turns = [CALLING[0], {"role": "assistant", "content": thought + text}]
    for family in ("qwen3, tools", "alpaca"):
        assert f"{text}<|im_end|>|" in shown(turns, family, families)


def test_nulls_in_a_text_are_no_padding(families):
    call = '<tool_call>\n{"name": "add", "arguments": {"a": null, "b": [null]}}\n</tool_call>'
    turns = [CALLING[0], {"role": "assistant", "content": call}]
    assert shown(turns, "first call", families).endswith('|add {"a": null, "b": [null]}<|im_end|>|')


def test_results_of_tools_may_be_shown_as_json(families):
    turns = [
        CALLING[0],
        calling({"a": 1}),
        {"role": "tool", "content": '{"sum": "2"}\n'},
        CALLING[3] | {"weight": 1},
    ]
    for family in ("llama3.1", "first call"):
        assert r'"{\"sum\": \"2\"}\n"<|im_end|>' in shown(turns, family, families)


def test_calls_get_the_ids_that_a_template_asks_for(families):
    turns = [
        CALLING[0],
        calling({"a": 1}, {"a": 2}),
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4"},
    ]
    turns += [{"role": "assistant", "content": "Two."}]
    one = '{"name": "add", "arguments": {"a": 1}, "id": "c00001000"}'
    two = '{"name": "add", "arguments": {"a": 2}, "id": "c00001001"}'
    first = (
        f"|[TOOL_CALLS][{one}, {two}]<|im_end|>|[TOOL_RESULTS]3 c00001000[/TOOL_RESULTS]"
        "[TOOL_RESULTS]4 c00001001[/TOOL_RESULTS]|Two.<|im_end|>|"
    )
    tools = f"[AVAILABLE_TOOLS][{DEFINED}][/AVAILABLE_TOOLS]"
    assert shown(turns, "mistral, tools", families, tools=TOOLS) == f"{tools}[INST]Q[/INST]{first}"
    more = [
        *turns,
        CALLING[0],
        calling({"a": 1}),
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "No."},
    ]
    assert shown(more, "mistral, tools", families, tools=TOOLS) == (
        f"[INST]Q[/INST]{first}{tools}[INST]Q[/INST]"
        f"|[TOOL_CALLS][{one.replace('c00001', 'c00006')}]<|im_end|>|"
        "[TOOL_RESULTS]5 c00006000[/TOOL_RESULTS]|No.<|im_end|>|"
    )


def test_alpaca_shows_system_turns_wherever_they_stand(families):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "system", "content": "It is noon."},  # hiyouga/LLaMA-Factory#5978: one before each reply
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "It is one."},
        {"role": "assistant", "content": "Hello."},
        {"role": "system", "content": "Be brief."},
    ]
    assert shown(turns, "alpaca", families) == (
        "Be kind.\n\nIt is noon.\n\n### Response:|Welcome.<|im_end|>|\n\n### Instruction:\nHi\n\n"
        "It is one.\n\n### Response:|Hello.<|im_end|>|\n\nBe brief.\n\n"
    )
