"""Which key goes to which server, and what is said to a server's user who has to name one."""

from __future__ import annotations

import json

import pytest

from dfilter.errors import ServerError, SettingsError
from dfilter.llm.answers import Request
from dfilter.llm.keys import key_of
from dfilter.llm.server import Server
from dfilter.llm.session import open_session
from dfilter.testing import Say, ScriptedServer

CANARY = "sk-canary-0123456789abcdef"
NOBODYS, USUAL = "http://judge.example/v1", "OPENAI_API_KEY"


def asked(server: Server) -> None:
    with open_session(server) as session:
        request = Request(b"k" * 16, [{"role": "user", "content": "Rate."}], {"max_tokens": 8})
        assert [answer.status for answer in session.ask([request])] == ["ok"]


def test_nothing_goes_where_nobody_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USUAL, CANARY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: yes\nauthorization: Bearer canary")
    with ScriptedServer("4.5") as one, ScriptedServer("4.5") as two:
        asked(Server("a", base_url=one.url, key_env=USUAL))
        asked(Server("b", base_url=two.url))
        assert {e.authorization for e in one.log} == {f"Bearer {CANARY}"}
        for entry in (*one.log, *two.log):
            text = json.dumps({n: v for n, v in entry.headers.items() if n != "authorization"})
            assert "canary" not in text
        assert not any("canary" in e.authorization for e in two.log)


@pytest.mark.parametrize(
    ("url", "elsewhere", "named", "sent"),
    [
        ("", "", "", True),
        ("https://eu.api.openai.com/v1", "", "", True),
        ("", NOBODYS, "", True),
        (f"{NOBODYS}/", NOBODYS, "", True),
        (NOBODYS, "", USUAL, True),
        (NOBODYS, "", "", False),
        (NOBODYS, "https://judge.example/v1", "", False),
        ("http://127.0.0.1:8000/v1", "", "", False),
        ("https://notopenai.com/v1", "", "", False),
        ("https://openai.com.example/v1", "", "", False),
        ("https://name.openai.azure.com/openai/v1", "", "", False),
        ("https://api.openai.com/v1", "", "none", False),
    ],
)
def test_the_usual_key_is_openais_unless_somebody_says_whose_it_is(
    url: str, elsewhere: str, named: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USUAL, CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", elsewhere)
    server = Server("m", base_url=url, key_env=named)
    assert (key_of(server).reveal() == CANARY) is sent
    assert key_of(server).reveal() in {CANARY, "none"}


@pytest.mark.parametrize(("variable", "url"), [("MISSING_KEY", NOBODYS), (USUAL, NOBODYS), ("", "")])
def test_a_key_that_is_named_or_needed_must_be_there(variable: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable or USUAL} is not set"):
        key_of(Server("m", base_url=url, key_env=variable))


def test_another_servers_key_does_not_go_to_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USUAL, CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", NOBODYS)
    with pytest.raises(SettingsError, match="--judge-key"):
        key_of(Server("m", base_url="https://api.openai.com/v1"))


@pytest.mark.parametrize(
    ("set_", "named", "said"),
    [
        (True, "", "OPENAI_API_KEY was not sent.*127.0.0.1; --judge-key OPENAI_API_KEY"),
        (False, "", "No key was sent; --judge-key VARIABLE"),
        (True, "MINE", "Check the API key"),
    ],
)
def test_a_server_that_wants_a_key_is_told_apart_from_one_that_got_a_wrong_one(
    set_: bool, named: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "sk-mine-0123456789abcdef")
    if set_:
        monkeypatch.setenv(USUAL, CANARY)
    with ScriptedServer("4", key="another") as server:
        with pytest.raises(ServerError, match=said):
            asked(Server("m", base_url=server.url, key_env=named))
        assert server.calls == 1
    gemini = Say("API key not valid. Please pass a valid API key.", status=400)
    with ScriptedServer(lambda _: gemini) as server, pytest.raises(ServerError) as refused:
        asked(Server("m", base_url=server.url, key_env=named))
    assert ("--judge-key" in str(refused.value)) is not bool(named)


@pytest.mark.parametrize("key", [CANARY, "none," + CANARY, "0123456789abcdef0123456789abcdef"])
def test_a_key_in_the_place_of_a_variables_name_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="name of an environment variable") as caught:
        Server("m", NOBODYS, key_env=key)
    assert "0123456789" not in str(caught.value)
