"""Whatever a chat template's own code ends in is a matter of the row that it was given."""

from __future__ import annotations

import pytest

from dfilter.chat import render_many
from dfilter.models import load_tokenizer
from dfilter.types import Example, Message

CONTENT = "messages[0]['content']"
FAILS = {
    f"{{% set x = 1 // ({CONTENT}|length - 5) %}}": "division",
    f"{{% for i in range(({CONTENT}|length // 5) * 200000) %}}{{% endfor %}}": "Range too big",
    f"{{{{ {CONTENT}.foo.bar if {CONTENT} == 'fives' }}}}": "foo",
    "{% macro deep() %}{{ deep() }}{% endmacro %}"
    f"{{{{ deep() if {CONTENT} == 'fives' }}}}": "recursion",
    f"{{{{ 2.0 ** (9999 if {CONTENT} == 'fives' else 1) }}}}": "out of range",
}


@pytest.mark.parametrize("code", FAILS)
def test_a_template_that_fails_at_a_row_refuses_that_row_alone(code: str) -> None:
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = code + str(tokenizer.chat_template)
    turns = [(Message("user", text), Message("assistant", "yes")) for text in ("one", "fives", "two")]
    found = render_many([Example("", said, {}) for said in turns], tokenizer, template="chat")
    assert [bool(row.refused) for row in found] == [False, True, False]
    assert found[1].refused.startswith("the model's chat template refuses it: ")
    assert FAILS[code].lower() in found[1].refused.lower()
