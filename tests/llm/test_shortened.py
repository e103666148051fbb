"""A server that cuts prompts in silence is noticed from its own usage, and no other server is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from dfilter.llm.answers import Request
from dfilter.llm.server import Server
from dfilter.llm.session import Session
from dfilter.llm.shortened import Shortened, length
from dfilter.testing import Say, ScriptedServer

ENGLISH = [
    "The",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "nobody",
    "in",
    "the",
    "village",
    "was",
    "looking",
    "at",
    "it.",
]
CHINESE = "判断回答是否正确并给出零到五之间的分数因为这个问题需要仔细思考才能得到可靠结论"
CODE = "for i in range(len(rows)):\n        total += rows[i].get('value', 0)  # sum\n"


def text(kind: str, words: int, draw: random.Random) -> str:
    if kind == "english":
        return " ".join(draw.choice(ENGLISH) for _ in range(words))
    if kind == "chinese":
        return "".join(draw.choice(CHINESE) for _ in range(3 * words))
    return CODE * max(1, words // 8)


def tokens(said: str) -> int:
    """Count as a common tokenizer would, roughly: 1.3 a word, one for 1.5 characters of Chinese."""
    wide = sum(ord(letter) > 0x2E80 for letter in said)
    return int(1.3 * len(said.split()) + wide / 1.5) + 8


def prompts(kinds: list[str], rows: int, least: int, most: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [text(draw.choice(kinds), int(draw.uniform(least, most)), draw) for _ in range(rows)]


def statuses(server: ScriptedServer, asked: list[str], model: str = "m") -> list[str]:
    found = {}
    with Session(Server(model=model, base_url=server.url, concurrency=8, first_wait=0.01)) as session:
        requests = [
            Request(i.to_bytes(16, "big"), [{"role": "user", "content": said}], {"max_tokens": 8})
            for i, said in enumerate(asked)
        ]
        for answer in session.ask(requests):
            found[answer.index] = answer
    return [found[i].status for i in range(len(asked))]


def reporting(count: Callable[[str], Any], **more: Any) -> Callable[[dict], Say]:
    def script(body: dict) -> Say:
        usage = count(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"content": "4.5"}, "finish_reason": "stop"}
        reply = {"id": "x", "choices": [choice], **({"usage": usage} if usage is not None else {})}
        return Say(body=json.dumps(reply).encode())

    return script


def usage(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": 5, **more}


@pytest.mark.parametrize(
    ("kinds", "cap"),
    [
        (["english", "chinese", "code"], 512),
        pytest.param(["english"], 2048, marks=pytest.mark.slow),
        pytest.param(["chinese"], 2048, marks=pytest.mark.slow),
        pytest.param(["english", "chinese", "code"], 2048, marks=pytest.mark.slow),
    ],
)
def test_long_prompts_at_a_cap_are_cut_and_all_others_are_not(kinds: list[str], cap: int) -> None:
    asked = prompts(kinds, 150, cap // 20, cap // 4) + prompts(kinds, 50, 3 * cap, 12 * cap, 1)
    random.Random(3).shuffle(asked)
    with ScriptedServer(reporting(lambda said: usage(min(tokens(said), cap)))) as server:
        found = statuses(server, asked)
    for said, status in zip(asked, found, strict=True):
        if tokens(said) < cap:
            assert status == "ok"
        elif tokens(said) > 2 * cap:
            assert status == "cut"


def test_a_pool_that_is_cut_as_a_whole_is_noticed() -> None:
    with ScriptedServer(reporting(lambda said: usage(min(tokens(said), 2048)))) as server:
        found = statuses(server, prompts(["english"], 30, 4000, 9000))
    assert set(found) == {"cut"}


def test_what_was_cut_says_which_setting_is_too_small_and_is_asked_no_more() -> None:
    asked = prompts(["english"], 30, 4000, 9000)
    with ScriptedServer(reporting(lambda said: usage(min(tokens(said), 2048)))) as server:
        statuses(server, asked)
        calls = server.calls
        with Session(Server(model="m", base_url=server.url)) as session:
            requests = [
                Request(i.to_bytes(16, "big"), [{"role": "user", "content": said}])
                for i, said in enumerate(asked)
            ]
            answers = list(session.ask(requests))
        assert server.calls == calls
    assert {a.status for a in answers} == {"cut"}
    assert all(word in answers[0].reason for word in ("2,048", "num_ctx", "--ctx-size", "--max-model-len"))


@pytest.mark.parametrize(
    "count",
    [
        lambda _: None,
        lambda _: usage(0),
        lambda _: usage(None),
        lambda _: usage(100),
        lambda _: usage(300),
        lambda _: usage(1.5),
        lambda said: usage(tokens(said)),
        lambda said: usage(len(said.encode()) // 4),
        lambda said: usage(len(said)),
        lambda said: usage(1 + tokens(said) // 2),
        lambda said: usage(max(1, tokens(said) // 16), prompt_tokens_details={"cached_tokens": tokens(said)}),
    ],
    ids=["none", "0", "null", "100", "300", "no count", "plain", "bytes", "letters", "few", "cached"],
)
@pytest.mark.parametrize(
    ("least", "most"), [(20, 900), pytest.param(20, 3000, marks=pytest.mark.slow), (200, 210)]
)
def test_no_other_server_is_suspected(count: Callable[[str], Any], least: int, most: int) -> None:
    asked = [*prompts(["english", "chinese", "code"], 120, least, most), "x" * 9000, "x " * 900, "a b", ""]
    with ScriptedServer(reporting(count)) as server:
        assert set(statuses(server, asked)) == {"ok"}


def test_every_answer_is_handed_on_once_and_few_wait() -> None:
    draw, watch, seen = random.Random(1), Shortened[int](), []
    most = 0
    for i in range(5000):
        words = draw.randint(50, 900)
        whole, cut = watch.take(b"a " * words, int(words * draw.uniform(1.1, 1.6)), i)
        seen += whole + cut
        most = max(most, len(watch.held))
        assert not cut
    assert sorted(seen + watch.rest()) == list(range(5000))
    assert most <= 1


def test_length_is_no_more_than_tokens() -> None:
    for kind in ("english", "chinese", "code"):
        said = text(kind, 500, random.Random(0))
        assert length(said.encode()) <= tokens(said)


def test_once_the_limit_is_known_every_prompt_that_reaches_it_is_cut() -> None:
    watch = Shortened[str]()
    for i in range(10):
        assert watch.take(b"a " * (100 + i), 130 + i, "short") == (["short"], [])
    assert watch.take(b"a " * 1500, 1024, "long") == ([], [])
    assert watch.take(b"a " * 3000, 1024, "longer") == ([], ["long", "longer"])
    assert watch.cap == 1024
    assert watch.take(b"a " * 800, 1024, "not much too long") == ([], ["not much too long"])
    assert watch.take(b"a " * 700, 900, "whole") == (["whole"], [])


def test_a_larger_number_shows_that_the_one_before_was_no_limit() -> None:
    watch = Shortened[str]()
    watch.take(b"a " * 100, 130, "short")
    assert watch.take(b"a " * 1500, 1024, "held") == ([], [])
    whole, cut = watch.take(b"a " * 1000, 1300, "larger")
    assert (whole, cut) == (["held", "larger"], [])
    assert watch.rest() == []
