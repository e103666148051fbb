"""Chat templates that write today's date: what is rendered is the same on any day."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from dfilter import chat, models
from dfilter.embed.losses import ResponseLoss, opening
from dfilter.errors import SettingsError
from dfilter.eval import lm_eval as adapter
from dfilter.llm.answers import Request
from dfilter.llm.local import _prompt_ids
from dfilter.train.rows import encode
from dfilter.turns import apply_template
from dfilter.types import Example, Message

BODY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 3.2 asks the clock, and as gpt-oss does, from inside a macro.
ASKED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}\n'
    '{{- "Today Date: " + date_string + "\\n" }}' + BODY
)
IN_MACRO = (
    '{%- macro system() -%}{{ "Current date: " + strftime_now("%Y-%m-%d") + "\\n" }}{%- endmacro -%}\n'
    "{{- system() }}" + BODY
)
GIVEN = (  # Llama 3.1 asks no clock
    '{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}\n'
    "{{ date_string }}\n" + BODY
)
TEMPLATES = {
    "asked": ASKED,
    "in a macro": IN_MACRO,
    "leading line": "\n  {{ strftime_now('%A, %-d %B %y') }}" + BODY,
    "leading block": "  {% if true %}\n  {{ strftime_now('%d%%') }}{% endif %}" + BODY,
    "twice": "{{ strftime_now('%H:%M %j') }} {{ strftime_now(format='%m/%d') }}\n" + BODY,
}
TURNS = (Message("user", "make two"), Message("assistant", "end"))
ROWS = [
    Example(str(i), (Message("user", "list " * i), Message("assistant", "the man")), {}) for i in (1, 2, 3)
]
DAYS = (dt.date(2026, 11, 24), dt.date(2026, 11, 25))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[dt.date], None]:
    """Set the clock that transformers gives to templates."""

    def frozen(day: dt.date) -> None:
        class Frozen(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Frozen:
                return cls(day.year, day.month, day.day, tzinfo=tz)

        monkeypatch.setattr(chat_template_utils, "datetime", Frozen)

    return frozen


@pytest.fixture(params=["asked", "in a macro"])
def dated(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose chat template writes the date."""
    folder = tmp_path / "dated"
    shutil.copytree(models.resolve("tiny").path, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES[request.param])
    return folder


def plain(tokenizer: PreTrainedTokenizerBase) -> str:
    turns = [{"role": m.role, "content": m.content} for m in TURNS]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def test_tokens_are_the_same_on_every_day_and_others_when_a_date_is_named(
    dated: Path, on: Callable[[dt.date], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = models.load_tokenizer(dated)

    def everything() -> list[object]:
        request = Request(b"k" * 16, [{"role": "user", "content": "make two"}], {})
        return [
            chat.render(TURNS, tokenizer),
            chat.render_prompt(TURNS, tokenizer),
            _prompt_ids(tokenizer, request, 256, len(tokenizer)),
            encode(ROWS, tokenizer, template="auto", eot=False, max_tokens=256).digest(),
        ]

    found, shown, openings = [], [], []
    for day in DAYS:
        on(day)
        found.append(everything())
        openings.append(opening(tokenizer, "auto"))
        shown.append(plain(tokenizer))
    assert shown[0] != shown[1]  # the clock does reach a template that nobody holds back
    assert found[0] == found[1]
    assert openings[0] == openings[1] == tokenizer("<|im_start|>assistant\n").input_ids
    assert "2024" in tokenizer.decode(found[0][0].input_ids)
    monkeypatch.setenv("DFILTER_DATE", "2026-11-24")
    named = everything()
    assert all(one != other for one, other in zip(named, found[0], strict=True))
    assert "2026" in tokenizer.decode(named[0].input_ids)


def test_losses_are_the_same_on_every_day_and_others_when_a_date_is_named(
    dated: Path, on: Callable[[dt.date], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = ResponseLoss(model=str(dated), dtype="float32", device="cpu")
    values = []
    for day in DAYS:
        on(day)
        values.append(signal.compute(ROWS))
    assert np.array_equal(values[0], values[1])
    monkeypatch.setenv("DFILTER_DATE", "2031-01-09")
    named = signal.compute(ROWS)
    assert (named["prompted"] != values[0]["prompted"]).all()
    assert np.array_equal(named["alone"], values[0]["alone"])  # no prompt, no date


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_but_the_clock_is_replaced(name: str, on: Callable[[dt.date], None]) -> None:
    tokenizer = models.load_tokenizer("tiny")
    tokenizer.chat_template = TEMPLATES[name]
    on(chat.template_date())
    turns = [{"role": m.role, "content": m.content} for m in TURNS]
    assert apply_template(turns, tokenizer) == plain(tokenizer)
    assert apply_template(turns[:1], tokenizer, opening=True) == tokenizer.apply_chat_template(
        turns[:1], tokenize=False, add_generation_prompt=True
    )


@given(
    day=st.dates(min_value=dt.date(1900, 1, 1)),
    parts=st.lists(st.sampled_from([*"aAbBdHIjmMpSUwWyYyGVuFeDT", "-d", "-m", "%", "%%d"]), max_size=5),
)
def test_every_format_is_written_as_strftime_writes_it(day: dt.date, parts: list[str]) -> None:
    wanted = " ".join(f"%{part}" for part in parts)
    tokenizer = models.load_tokenizer("tiny")
    tokenizer.chat_template = "{{ strftime_now(messages[0]['content']) }}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_DATE", day.isoformat())
        assert apply_template([{"role": "user", "content": wanted}], tokenizer) == day.strftime(wanted)


def test_a_template_with_a_date_of_its_own_keeps_it_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = models.load_tokenizer("tiny")
    tokenizer.chat_template = GIVEN
    turns = [{"role": "user", "content": "make two"}]
    assert apply_template(turns, tokenizer).startswith("26 Jul 2024\n<|im_start|>user")
    monkeypatch.setenv("DFILTER_DATE", "2026-11-24")
    assert apply_template(turns, tokenizer).startswith("24 Nov 2026\n<|im_start|>user")


def test_the_harness_is_given_a_template_without_a_clock(
    dated: Path, on: Callable[[dt.date], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    harness = types.ModuleType("lm_eval")
    harness.simple_evaluate = lambda **_: {"samples": {"t": [{"doc_id": 0, "acc": 1.0}]}}  # type: ignore[attr-defined]
    wrapped = types.ModuleType("lm_eval.models.huggingface")
    wrapped.HFLM = lambda **settings: given.append(settings["tokenizer"])  # type: ignore[attr-defined]
    for module in (harness, types.ModuleType("lm_eval.models"), wrapped):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(adapter, "_version", lambda: "0")
    adapter.LMEval("t", chat=True).evaluate(dated)
    shown = []
    for day in DAYS:
        on(day)
        shown.append(plain(given[0]))
    assert shown[0] == shown[1]
    assert "2024" in shown[0]


@pytest.mark.parametrize("named", ["today", "2024-13-01", "20240726", "2024-7-26", "2024-W30-5"])
def test_what_is_no_date_is_refused(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_DATE", named)
    with pytest.raises(SettingsError, match=f"DFILTER_DATE is '{named}'; expected a date such as 2024-07-26"):
        chat.template_date()
    monkeypatch.setenv("DFILTER_DATE", " ")
    assert chat.template_date() == dt.date(2024, 7, 26)
