"""Judges as they are: from an empty ledger to rated rows, against servers that refuse what today's refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dfilter.errors import ServerError, SettingsError
from dfilter.llm.judge import Judge, rate
from dfilter.llm.ledger import Ledger
from dfilter.llm.refusals import read_refusal
from dfilter.llm.session import ledger_path, open_session
from dfilter.testing import Say, ScriptedServer
from dfilter.types import Example, Message

FAST = {"first_wait": 0.01, "longest_pause": 0.05, "patience": 5.0, "attempt_seconds": 20.0}
Refuses = Callable[[Mapping[str, Any]], "Say | None"]


def rows(n: int) -> list[Example]:
    return [
        Example(f"{i}", (Message("user", f"Question {i}?"), Message("assistant", f"Answer {i}.")), {})
        for i in range(n)
    ]


def refusal(status: int, body: Any) -> Say:
    return Say(status=status, body=json.dumps(body).encode(), paid=False)


def completion(text: str | None, finish: str = "stop", thought: int = 0, **message: Any) -> Say:
    said = 5 + thought
    usage = {"prompt_tokens": 300, "completion_tokens": said, "total_tokens": 300 + said}
    usage["completion_tokens_details"] = {"reasoning_tokens": thought}  # type: ignore[assignment]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    return Say(body=json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode())


def gpt5(body: Mapping[str, Any], small_cap_refused: bool = True) -> Say:
    """It wants another name for the limit, no temperature, and thinks within the limit."""

    def error(text: str, code: str | None, param: str | None) -> Say:
        return refusal(
            400, {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": code}}
        )

    if "max_tokens" in body:
        return error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
                     "unsupported_parameter", "max_tokens")  # fmt: skip
    if body.get("temperature", 1) != 1:
        return error("Unsupported value: 'temperature' does not support 0 with this model.",
                     "unsupported_value", "temperature")  # fmt: skip
    if body.get("logprobs"):
        return error("Unsupported parameter: 'logprobs'.", "unsupported_parameter", "logprobs")
    text = body["messages"][-1]["content"]
    thought, most = 200 + sum(text.encode()) % 400, body["max_completion_tokens"]
    if thought + 20 > most:
        if small_cap_refused and most < 300:
            return error(
                "Could not finish the message because max_tokens or model output limit was reached.",
                None,
                None,
            )
        return completion("", "length", most)
    return completion("4.5\nFine.", thought=thought)


def qwen3(body: Mapping[str, Any]) -> Say:
    """vLLM with a reasoning parser: the thought takes 300 tokens unless it is switched off."""
    kwargs = body.get("chat_template_kwargs") or {}
    if kwargs.get("enable_thinking") is False:
        return completion("4.5\nFine.", reasoning_content=None)
    if body["max_tokens"] < 320:
        return completion(None, "length", reasoning_content="Hmm")
    return completion("\n\n4.5\nFine.", reasoning_content="Hmm, well.")


def gemini(body: Mapping[str, Any]) -> Say:
    """A list for an error, several names in one message, thought in the total alone."""
    known = {"model", "messages", "max_tokens", "stream"}
    unknown = [name for name in body if name not in known]
    if unknown:
        camel = ["topLogprobs" if name == "top_logprobs" else name for name in unknown]
        said = "\n".join(
            f'Invalid JSON payload received. Unknown name "{n}": Cannot find field.' for n in camel
        )
        return refusal(400, [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}])
    if body["max_tokens"] < 600:
        return completion("", "length")
    usage = {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 700}
    choice = {"index": 0, "message": {"role": "assistant", "content": "4.5\nFine."}, "finish_reason": "stop"}
    return Say(body=json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode())


def azure(body: Mapping[str, Any]) -> Say:
    return completion("4.5\nFine.")


SERVERS = [(gpt5, 4), (qwen3, 2), (gemini, 3), (azure, 1)]


def asked(server: ScriptedServer, judge: Judge, count: int) -> tuple[Any, dict[str, Any]]:
    with open_session(judge.server) as session:
        return rate(rows(count), judge, session=session), session.facts()


def _rated_rows(script: Callable[[Mapping[str, Any]], Say], probes: int, count: int) -> None:
    with ScriptedServer(script) as server:
        judge = Judge(model="m", base_url=server.url, **FAST)  # type: ignore[arg-type]
        found, _ = asked(server, judge, count)
        assert found["value"].tolist() == [4.5] * count
        assert server.calls <= probes + count
        assert all(entry.body.get("stream") is False for entry in server.log)
        calls = server.calls
        asked(server, judge, count)
        assert server.calls == calls
        _, facts = asked(server, judge, count + 1)  # what was learnt is kept
        assert server.calls == calls + 1
        assert facts["failed"] == 0


@pytest.mark.parametrize(("script", "probes"), SERVERS)
def test_from_an_empty_ledger_to_rated_rows(script: Callable, probes: int) -> None:
    _rated_rows(script, probes, 30)


@pytest.mark.soak
@pytest.mark.parametrize(("script", "probes"), SERVERS)
def test_ten_thousand_rows(script: Callable, probes: int) -> None:
    _rated_rows(script, probes, 10_000)


def test_a_thought_that_only_rows_need_is_given_room_when_it_shows() -> None:
    """The question that tries the model is too easy to think about."""

    def script(body: Mapping[str, Any]) -> Say:
        if "digit 3" in body["messages"][-1]["content"]:
            return completion("3")
        return completion("", "length", body["max_tokens"]) if body["max_tokens"] < 900 else completion("4")

    with ScriptedServer(script) as server:
        found, _ = asked(server, Judge(model="m", base_url=server.url, concurrency=4, **FAST), 40)  # type: ignore[arg-type]
        assert found["value"].tolist() == [4.0] * 40
        assert server.calls <= 1 + 40 + 8


def test_azures_classic_address_takes_its_version_and_its_own_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-key-123456")
    with ScriptedServer(azure) as server:
        place = server.url.removesuffix("/v1")
        for base in (
            place,
            f"{place}/openai/deployments/mine",
            f"{place}/openai/deployments/mine/chat/completions",
        ):
            made = Judge(model="mine", base_url=base, api_version="2024-10-21", key_env="AZURE_KEY", **FAST)  # type: ignore[arg-type]
            asked(server, made, 2)
        paths = {entry.path for entry in server.log}
        assert paths == {"/openai/deployments/mine/chat/completions?api-version=2024-10-21"}
        assert {entry.headers.get("api-key") for entry in server.log} == {"azure-key-123456"}
        assert not any("authorization" in entry.headers for entry in server.log)
        with pytest.raises(SettingsError, match="api_version"):
            Judge(model="mine", base_url=f"{place}/openai/deployments/mine")
        server.log.clear()
        made = Judge(model="mine", base_url=f"{place}/openai/v1", key_env="AZURE_KEY", **FAST)  # type: ignore[arg-type]
        asked(server, made, 1)
        assert {entry.path for entry in server.log} == {"/openai/v1/chat/completions"}
        assert {entry.authorization for entry in server.log} == {"Bearer azure-key-123456"}


@pytest.mark.parametrize("status", [400, 403, 404, 422, 500, 501])
@pytest.mark.parametrize("told", ["param", "message", "nothing"])
def test_whatever_status_refuses_a_parameter_it_is_left_out(status: int, told: str) -> None:
    if told == "nothing" and status in {403, 404}:
        pytest.skip("that is the account's or the model's")

    def script(body: Mapping[str, Any]) -> Say:
        if "temperature" in body:
            said = {"param": "Not this one.", "message": "temperature is not known here", "nothing": "No."}[
                told
            ]
            param = "temperature" if told == "param" else None
            return refusal(
                status, {"error": {"message": said, "param": param, "type": "error", "code": None}}
            )
        return completion("4")

    with ScriptedServer(script) as server:
        found, facts = asked(server, Judge(model="m", base_url=server.url, **FAST), 20)  # type: ignore[arg-type]
    assert found["value"].tolist() == [4.0] * 20
    assert facts["accepts"]["refused"] == ("temperature",)
    assert server.calls <= 20 + (2 if told != "nothing" else 8)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"object": "error", "message": "System role not supported", "type": "BadRequestError"}),
        (400, {"error": {"message": "Unsupported value: 'messages[0].role' does not support 'system'.",
                         "param": "messages[0].role", "code": "unsupported_value"}}),
        (500, {"error": {"code": 500, "message": "Jinja: System role not supported"}}),
        (400, [{"error": {"message": "Developer instruction is not enabled for models/gemma-3-27b-it"}}]),
        (400, {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}),
        (500, {"error": {"message": "broken"}}),
    ],
)  # fmt: skip
def test_a_model_without_a_system_role_is_asked_in_the_users_turn(status: int, body: Any) -> None:
    def script(asked_for: Mapping[str, Any]) -> Say:
        if any(m["role"] == "system" for m in asked_for["messages"]):
            return refusal(status, body)
        return completion("4")

    with ScriptedServer(script) as server:
        judge = Judge(model="m", base_url=server.url, **FAST)  # type: ignore[arg-type]
        found, _ = asked(server, judge, 20)
        assert found["value"].tolist() == [4.0] * 20
        assert "careful and impartial" in server.log[-1].body["messages"][0]["content"]
        (row,) = rows(1)
        resolved = judge.settled()
        assert resolved.system == "user"
        assert resolved.key(row) != judge.key(row)
        assert replace(judge, system="turn").key(row) == judge.key(row)
        with pytest.raises(ServerError, match="system"):
            asked(server, replace(judge, system="turn"), 5)


def test_settings_of_the_user_make_another_judge_and_are_never_left_out() -> None:
    (row,) = rows(1)
    plain = Judge(model="m", base_url="http://127.0.0.1:1/v1")
    changed = [
        replace(plain, reasoning_effort="low"),
        replace(plain, extra_body={"chat_template_kwargs": {"enable_thinking": False}}),
    ]
    assert len({judge.key(row) for judge in [plain, *changed]}) == 3
    assert replace(plain, thought_tokens=99).key(row) == plain.key(row)

    def script(body: Mapping[str, Any]) -> Say:
        if "reasoning_effort" in body:
            said = "Unsupported value: 'minimal'. Supported values are: 'none', 'low'."
            return refusal(400, {"error": {"message": said, "param": "reasoning_effort"}})
        return completion("4")

    with ScriptedServer(script) as server:
        with pytest.raises(SettingsError, match="'none', 'low'"):
            asked(server, replace(plain, base_url=server.url, reasoning_effort="minimal"), 5)
        asked(server, replace(changed[1], base_url=server.url), 1)
        assert server.log[-1].body["chat_template_kwargs"] == {"enable_thinking": False}
    with pytest.raises(SettingsError, match="setting of its own"):
        Judge(model="m", extra_body={"max_tokens": 3})


@pytest.mark.parametrize("silent", [True, False])
def test_expected_mode_without_log_probabilities_is_refused_before_any_row(silent: bool) -> None:
    def script(body: Mapping[str, Any]) -> Say:
        if body.get("logprobs") and not silent:
            return refusal(400, {"error": {"message": "logprobs is not supported", "param": "logprobs"}})
        return completion("4")

    with ScriptedServer(script) as server:
        with pytest.raises(SettingsError, match="no log probabilities"):
            asked(server, Judge(model="m", base_url=server.url, mode="expected", **FAST), 60)  # type: ignore[arg-type]
        assert server.calls <= 2


def test_what_the_server_takes_back_is_learnt_again_in_the_middle_of_a_run() -> None:
    refuses: list[str] = []

    def script(body: Mapping[str, Any]) -> Say:
        found = [name for name in refuses if name in body]
        if found:
            return refusal(
                400, {"error": {"message": f"Unsupported parameter: '{found[0]}'", "param": found[0]}}
            )
        if "Question 50?" in body["messages"][-1]["content"]:
            refuses.append("temperature")
        return completion("4")

    with ScriptedServer(script) as server:
        judge = Judge(model="m", base_url=server.url, concurrency=8, **FAST)  # type: ignore[arg-type]
        found, _ = asked(server, judge, 200)
        assert found["value"].tolist() == [4.0] * 200
        assert server.calls <= 200 + 1 + 2 + 300
        assert "temperature" not in server.log[-1].body


def test_capabilities_of_another_version_are_learnt_again_and_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ScriptedServer(azure) as server:
        judge = Judge(model="m", base_url=server.url, **FAST)  # type: ignore[arg-type]
        book = Ledger(ledger_path())
        for odd in ({"temperature": True, "later": [1]}, {"shapes": {"x": 3}}, {"shapes": None}):
            book.keep_capability(server.url, "m", odd)
            asked(server, judge, 1)
        book.close()
        asked(server, judge, 2)
        calls = server.calls
        monkeypatch.setenv("DFILTER_REPROBE", "9e12")
        asked(server, judge, 3)
        assert server.calls == calls + 2


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"message": "x", "param": "temperature"}, {"temperature"}),
        ({"code": "c", "error": "Argument not supported on this model: topLogprobs"}, {"top_logprobs"}),
        ([{"error": {"message": 'Unknown name "seed": Cannot find field.\nUnknown name "logprobs": Cannot'}}],
         {"seed", "logprobs"}),
        ({"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs", "input": {"logprobs": 1}}]},
         {"temperature"}),
        ({"message": '{"error": {"message": "no", "param": "temperature"}}'}, {"temperature"}),
        ({"detail": "Unexpected fields in the request: {'stream', 'n'}"}, {"stream", "n"}),
        ({"message": "The seed of n things was the stop of a stream."}, set()),
        ("does not support parameters: ['temperature', 'logprobs']", {"temperature", "logprobs"}),
        (None, set()),
    ],
)  # fmt: skip
def test_a_refusal_is_read_for_all_that_it_names(body: Any, names: set[str]) -> None:
    sent = ("max_tokens", "temperature", "seed", "n", "stop", "stream", "logprobs", "top_logprobs")
    assert read_refusal(body, sent).names == names


def test_log_probabilities_that_a_restart_loses_stop_the_run_and_make_no_row_unparsed() -> None:
    lost = False

    def script(body: Mapping[str, Any]) -> Say:
        nonlocal lost
        lost = lost or "Question 30?" in body["messages"][-1]["content"]
        return Say("4", tokens=() if lost else [{"4": 0.9, "3": 0.1}])

    with ScriptedServer(script) as server:
        judge = Judge(model="m", base_url=server.url, mode="expected", concurrency=4, **FAST)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="no log probabilities"):
            asked(server, judge, 100)
        book = Ledger(ledger_path())
        assert set(book.count()) == {"ok"}
        book.close()
        lost = False
        script_of_old, server.script = server.script, lambda _: Say("4", tokens=[{"4": 0.9, "3": 0.1}])
        found, _ = asked(server, judge, 100)  # and a restart that brings them back is noticed without a word
        assert (found["status"] == 0).all()
        assert script_of_old is script


def test_a_row_that_fits_only_without_room_for_thought_is_asked_without() -> None:
    def script(body: Mapping[str, Any]) -> Say:
        text, most = body["messages"][-1]["content"], body["max_tokens"]
        if "Question 7?" in text and most > 1000:
            said = f"max_tokens is too large: {most}. This model's maximum context length is 9000 tokens"
            return refusal(
                400, {"error": {"message": said, "param": "max_tokens", "type": "BadRequestError"}}
            )
        return completion("4", thought=50)

    with ScriptedServer(script) as server:
        found, _ = asked(server, Judge(model="m", base_url=server.url, **FAST), 12)  # type: ignore[arg-type]
        assert found["value"].tolist() == [4.0] * 12
        assert server.calls <= 2 + 12 + 3


def test_a_context_smaller_than_the_room_gets_less_of_it() -> None:
    def script(body: Mapping[str, Any]) -> Say:
        if body["max_tokens"] > 4096:
            said = "max_tokens is too large for a model with 4096 tokens of context"
            return refusal(400, {"error": {"message": said}})
        return completion("4", thought=50)

    with ScriptedServer(script) as server:
        found, facts = asked(server, Judge(model="m", base_url=server.url, **FAST), 5)  # type: ignore[arg-type]
        assert found["value"].tolist() == [4.0] * 5
        assert facts["accepts"]["room"] == 2048
