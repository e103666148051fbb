# ruff: noqa: E501 - what a server says stands on one line
"""What a status, its headers and its body mean: tables of what servers really say."""

from __future__ import annotations

import json
import ssl

import pytest

from dfilter.llm.breaks import broken
from dfilter.llm.comeback import come_back
from dfilter.llm.faults import Fault, error_within, fault_of, marks_of, message
from dfilter.llm.finishes import ended, finish_of

NOW = 1_800_000_000.0
URL = "http://judge:8000/v1"


def meaning(code: int, body: object, headers: dict[str, str] | None = None) -> Fault:
    return fault_of(code, headers or {}, body, url=URL, now=NOW)


def said(text: str, code: object = None, kind: str | None = None) -> dict:
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


TOO_LONG = [
    (400, said("This model's maximum context length is 4096 tokens. However, you requested 4500 tokens", 400)),
    (400, said("too many", "context_length_exceeded")),
    (400, said("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 289650.")),
    (400, {"object": "error", "message": "The model's context length is only 4096. You passed 4500 input tokens", "code": 400}),
    (400, {"object": "error", "message": "Requested token count exceeds the model's maximum context length of 4096"}),
    (400, {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."}),
    (400, said("request (4390 tokens) exceeds the available context size (4096 tokens)", 400, "exceed_context_size_error")),
    (500, said("Context size has been exceeded.", 500, "server_error")),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}),
    (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with 4096"}),
    (400, {"error": "n_keep: 5000 >= n_ctx: 4096"}),
    (400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}]),
    (400, {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 213321 tokens > 200000"}}),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}),
    (413, "<html>413 Request Entity Too Large</html>"),
    (400, said("x", "string_above_max_length")),
    (429, said("Request too large for gpt-4o in organization org on tokens per min (TPM): Limit 30000, Requested 40000.", "rate_limit_exceeded", "tokens")),
]  # fmt: skip
FILTERED = [
    (400, {"error": {"code": "content_filter", "message": "The response was filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, {"error": {"code": "BadRequest", "message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, said("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", "invalid_prompt")),
    (403, {"error": {"code": 403, "message": 'openai/gpt-4o requires moderation on OpenInference. Your input was flagged for "violence"', "metadata": {"reasons": ["violence"]}}}),
    (400, {"error": {"message": "Content violates content policy", "code": "content_policy_violation"}}),
]  # fmt: skip
STOPS = [
    (401, said("Incorrect API key provided", "invalid_api_key")),
    (401, ""),
    (402, {"error": {"message": "Insufficient Balance"}}),
    (402, said("Payment required", "payment_required")),
    (429, said("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota")),
    (429, said("You exceeded your current quota, please check your plan and billing details.")),
    (429, said("x", "credit_balance_exhausted")),
    (429, said("x", "organization_spend_limit_exceeded")),
    (429, said("x", "project_spend_limit_exceeded")),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your specified API usage limits. You will regain access on 2027-01-01."}}),
    (400, {"error": {"message": "Budget has been exceeded! Current cost: 10, Max budget: 5", "type": "budget_exceeded"}}),
    (403, said("Your account has been deactivated", "account_deactivated")),
    (403, {"error": {"message": "Key limit exceeded (total limit).", "code": 403}}),
    (403, [{"error": {"code": 403, "message": "x", "status": "PERMISSION_DENIED"}}]),
    (403, {"error": {"message": "over", "code": 403, "metadata": {"limit_source": "key"}}}),
    (302, ""),
]  # fmt: skip
PAUSES = [
    (429, said("Rate limit reached for gpt-4o", "rate_limit_exceeded"), {}),
    (429, [{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details. Please retry in 34.1s.", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34s"}]}}], {}),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, {}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, {}),
    (503, said("The server is overloaded", "server_is_overloaded"), {}),
    (503, {"error": {"message": "restarting"}}, {"retry-after": "7"}),
    (503, {"object": "error", "message": "The request queue is full."}, {}),
    (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, {}),
    (402, {"error": {"message": "x", "code": "in_flight_budget_exhausted"}}, {"retry-after": "3"}),
]  # fmt: skip
RETRIES = [
    (500, said("boom", None, "server_error")), (502, "<html>Bad Gateway</html>"), (503, ""), (504, ""), (520, ""),
    (408, ""), (409, ""), (425, ""), (499, ""), (424, {"error": "Request failed during generation", "error_type": "generation"}),
    (999, ""), (101, ""),
]  # fmt: skip
REFUSED = [
    (400, said("Unsupported parameter: 'max_tokens'", "unsupported_parameter")), (400, ""),
    (403, "<html>Forbidden</html>"), (404, said("The model 'm' does not exist", "model_not_found")), (405, ""), (410, ""),
    (418, ""), (422, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "value is not a valid integer"}]}), (451, ""), (501, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("then", "status", "code", "body", "headers"),
    [("row", "truncated", *case, {}) for case in TOO_LONG]
    + [("row", "filtered", *case, {}) for case in FILTERED]
    + [("stop", "", *case, {}) for case in STOPS]
    + [("pause", "", *case) for case in PAUSES]
    + [("retry", "", *case, {}) for case in RETRIES]
    + [("refused", "", *case, {}) for case in REFUSED],
)  # fmt: skip
def test_each_refusal_means_what_it_says(
    then: str, status: str, code: int, body: object, headers: dict[str, str]
) -> None:
    whole = meaning(code, json.dumps(body).encode() if not isinstance(body, str) else body.encode(), headers)
    assert (whole.then, whole.status) == (then, status), whole.sentence
    inner = body.get("error", body) if isinstance(body, dict) else body  # as a batch's file holds it
    assert meaning(code, inner, headers).then in {then, "pause"}


@pytest.mark.parametrize("code", range(400, 600))
def test_every_status_has_a_meaning_without_a_body(code: int) -> None:
    fault = meaning(code, b"")
    again = {408, 409, 423, 424, 425, 440, 444, 460, 499}
    expected = {
        401: "stop",
        402: "stop",
        407: "stop",
        413: "row",
        429: "pause",
        529: "pause",
        501: "refused",
        505: "refused",
    }
    assert fault.then == expected.get(code, "retry" if code >= 500 or code in again else "refused")
    assert fault.http == code
    assert str(code) in fault.sentence


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (said("plain"), "plain"),
        ({"object": "error", "message": "flat", "code": 400}, "flat"),
        ({"error": "only text"}, "only text"),
        ({"code": "Some requested entity was not found", "error": "xAI says so"}, "xAI says so"),
        ([{"error": {"message": "in a list", "status": "INVALID_ARGUMENT"}}], "in a list"),
        ({"detail": "from a framework"}, "from a framework"),
        ({"detail": [{"loc": ["body", "n"], "msg": "must be 1"}, {"msg": "and more"}]}, "body.n: must be 1; and more"),
        (said('{"error": {"message": "inside", "code": "context_length_exceeded"}}'), "inside"),
        ({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "the reason"}}}, "the reason"),
        ({"type": "error", "error": {"type": "api_error", "message": "two\n lines"}}, "two lines"),
        ("<html><body>Bad Gateway</body></html>", ""),
        ("just text", "just text"),
        ("", ""), (None, ""), (7, ""), ({}, ""), ([], ""),
    ],
)  # fmt: skip
def test_what_the_server_said_is_found_in_every_shape(body: object, words: str) -> None:
    found = message(body)
    assert found == words or (words and words in found)


def test_marks_are_found_at_any_depth_and_in_no_text_of_a_row() -> None:
    assert "context_length_exceeded" in marks_of(
        said('{"error": {"message": "x", "code": "context_length_exceeded"}}')
    )
    flagged = {"error": {"message": "x", "metadata": {"flagged_input": '{"code": "invalid_api_key"}'}}}
    assert "invalid_api_key" not in marks_of(flagged)


@pytest.mark.parametrize(
    "deep", ["[" * 100_000, '{"error":' * 5000 + "1" + "}" * 5000, "\x00", "{", '{"error": NaN}']
)
def test_no_body_breaks_the_reading(deep: str) -> None:
    assert meaning(400, deep.encode()).then in {"refused", "row"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "Provider returned error", "code": 403}}, 403),
        ({"error": {"message": "x", "code": "429"}}, 429),
        ({"error": {"message": "x", "code": "server_error"}}, 500),
        ({"error": "Trying to keep the first 5000 tokens"}, 500),
        ([{"error": {"message": "x", "code": 503}}], 503),
        ({"choices": [{"message": {"content": "4"}}], "error": {"code": 500}}, None),
        ({"choices": [{"message": {"content": "4"}}], "error": None}, None),
    ],
)  # fmt: skip
def test_an_error_under_a_good_status_has_its_own(body: object, code: int | None) -> None:
    found = error_within(json.dumps(body).encode())
    assert (found[0] if found else None) == code


def test_two_refusals_are_alike_but_for_their_numbers() -> None:
    one = meaning(400, said("the request a81bc of 4,390 tokens is refused by n-7"))
    two = meaning(400, said("The request f11ad of 88 tokens is refused by n-9"))
    assert one.likeness == two.likeness
    assert one.likeness != meaning(400, said("temperature is unknown")).likeness
    assert one.likeness != meaning(404, said("the request a81bc of 4,390 tokens is refused by n-7")).likeness


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "3"}, "", 3.0),
        ({"retry-after-ms": "250"}, "", 0.25),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "20ms"}, "", 360.0),
        ({"x-ratelimit-reset-requests": "59", "x-ratelimit-remaining-requests": "0"}, "", 59.0),
        ({"x-ratelimit-reset-requests": "0"}, "", None),
        ({"x-ratelimit-reset-tokens": "-1"}, "", None),
        ({"X-RateLimit-Reset": f"{(NOW + 75) * 1000:.0f}", "X-RateLimit-Remaining": "0"}, "", 75.0),
        ({"x-ratelimit-reset": f"{NOW + 75:.0f}"}, "", 75.0),
        ({"anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z", "anthropic-ratelimit-tokens-remaining": "0"}, "", 60.0),
        ({"anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z", "anthropic-ratelimit-tokens-remaining": "7"}, "", None),
        ({"ratelimitbysize-reset": "12"}, "", 12.0),
        ({"reset_at": "2027-01-15T08:00:30+00:00"}, "", 30.0),
        ({"ratelimit": "limit=10, remaining=0, reset=8"}, "", 8.0),
        ({"retry-after": "2", "x-ratelimit-reset-tokens": "9s"}, "", 9.0),
        ({}, {"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34s"}]}}, 34.0),
        ({}, [{"error": {"message": "Please retry in 34.5s."}}], 34.5),
        ({}, said("Requests have exceeded the rate limit. Please retry after 37 seconds."), 37.0),
        ({}, said("Please try again in 1m2s."), 62.0),
        ({}, said("Please try again in 20ms."), 0.02),
        ({}, said("try again in 2 hours and 5 minutes"), 7500.0),
        ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Reset": f"{(NOW + 60) * 1000:.0f}"}}}}, 60.0),
        ({}, {"retry_after": 4.5}, 4.5),
        ({}, said("Limit resets at: 2027-01-15 08:00:10 UTC"), 10.0),
        ({}, said("Rate limit is 20 per minute"), None),
        ({}, said("retry later; the row said 5 s of silence"), None),
        ({}, said(""), None),
    ],
)  # fmt: skip
def test_when_to_come_back(headers: dict[str, str], body: object, seconds: float | None) -> None:
    assert come_back(headers, body, NOW) == (None if seconds is None else pytest.approx(seconds, abs=0.01))


@pytest.mark.parametrize(
    ("said", "reason", "good"),
    [
        ("stop", "stop", True), ("STOP", "stop", True), ("FinishReason.STOP", "stop", True), ("end_turn", "stop", True),
        ("eos_token", "stop", True), ("length", "length", True), ("MAX_TOKENS", "length", True),
        ("model_length", "length", True), ("content_filter", "content_filter", True), ("SAFETY", "content_filter", True),
        ("sensitive", "content_filter", True), ("tool_calls", "tool_calls", True), ("function_call", "function_call", True),
        ("", "", True), (None, "null", False), ("error", "error", False), ("abort", "abort", False),
        ("insufficient_system_resource", "insufficient_system_resource", False), ("network_error", "network_error", False),
        ("repetition", "repetition", False), ("MALFORMED_RESPONSE", "MALFORMED_RESPONSE", False), (7, "unreadable", False),
    ],
)  # fmt: skip
def test_an_answer_is_one_only_if_it_is_known_to_have_ended(said: object, reason: str, good: bool) -> None:
    assert (finish_of(said), ended(finish_of(said))) == (reason, good)


def test_a_certificate_is_named_and_nothing_was_sent() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    fault = broken([OSError("x"), error], "https://judge:8000/v1")
    assert (fault.then, fault.maybe_billed) == ("stop", False)
    assert "self-signed certificate" in fault.sentence
    assert "SSL_CERT_FILE" in fault.sentence
