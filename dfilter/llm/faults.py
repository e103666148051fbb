"""What a refusal means: a status code, headers and a body in, whose fault it is out.

Servers name the same thing in many ways. The codes that they put into their bodies go before their words,
and their words before the status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dfilter.llm.answers import FILTERED, REJECTED, TRUNCATED
from dfilter.llm.comeback import come_back

SAID = 300  # characters of what a server said that are kept
DEPTH = 6

# The account's, whatever is asked: nothing can succeed before somebody has done something about it.
ACCOUNT = frozenset(
    {
        "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_exhausted",
        "organization_spend_limit_exceeded", "project_spend_limit_exceeded", "budget_exceeded",
        "organization_usage_limit_exceeded", "enforced_spend_limit_reached", "payment_required",
        "billing_error", "insufficient_credits", "insufficient_balance", "insufficient_funds",
    }
)  # fmt: skip
KEY = frozenset(
    {
        "invalid_api_key", "authentication_error", "account_deactivated", "access_terminated",
        "account_suspended", "permission_error", "permission_denied", "insufficient_permissions",
        "unsupported_country_region_territory", "expired_api_key", "no_such_organization",
        "key_model_access_denied",
    }
)  # fmt: skip
OVER_QUOTA = frozenset({"quota_exceeded"})  # of a day or of a minute: a time to come back tells
IN_FLIGHT = frozenset({"in_flight_budget_exhausted"})
OVERLOADED = frozenset({"overloaded_error", "server_is_overloaded", "slow_down", "overloaded"})
FILTERS = frozenset(
    {
        "content_filter", "content_policy_violation", "responsibleaipolicyviolation",
        "responsible_ai_policy_violation", "invalid_prompt", "moderation_blocked", "content_blocked",
        "data_inspection_failed", "prohibited_content", "content_filter_error",
    }
)  # fmt: skip
LONG = frozenset(
    {
        "context_length_exceeded", "exceed_context_size_error", "request_too_large", "string_too_long",
        "max_tokens_exceeded", "string_above_max_length", "context_window_exceeded", "input_too_long",
        "weight_exceeds_budget",
    }
)  # fmt: skip

_ACCOUNT_SAID = re.compile(
    r"check your plan and billing|credit balance|usage limits?\b.{0,60}regain access|out of credits?\b"
    r"|insufficient (?:balance|credits?|funds|quota)|(?:spend(?:ing)?|billing|budget) (?:hard )?limit"
    r"|add (?:more )?credits?\b|budget has been exceeded|never purchased credits|payment required",
    re.IGNORECASE,
)
_KEY_SAID = re.compile(
    r"\bapi[ -]?key\b|account (?:is |has been |was )?(?:deactivated|suspended|disabled|blocked|restricted)"
    r"|organi[sz]ation (?:is |has been |was )?(?:deactivated|suspended|disabled|restricted)"
    r"|country, region|not allowed to access|key limit exceeded",
    re.IGNORECASE,
)
_FILTER_SAID = re.compile(
    r"requires moderation|was flagged|content (?:management )?(?:policy|filter)|content[ _]policy"
    r"|safety (?:system|filter|settings)|inappropriate content|usage policy",
    re.IGNORECASE,
)
_LONG_SAID = re.compile(
    r"context[ _](?:length|window|size)|maximum (?:context|input|sequence|prompt)|max_model_len|max_position"
    r"|prompt is too long|input is too long|(?:prompt|input|request) (?:is )?too (?:long|large)"
    r"|input tokens? (?:count )?(?:\(\d+\) )?exceeds?|token count (?:\(\d+\) )?exceeds"
    r"|exceeds? the maximum number of tokens"
    r"|exceed(?:s|ed)? (?:the )?(?:context|max(?:imum)?(?: allowed)? (?:tokens|length))|exceed context limit"
    r"|longer than the model|you passed \d+ input|tokens`? \+ `?max_new_tokens|\bn_keep\b"
    r"|trying to keep the first"
    r"|too large for model with|reduce the length of",
    re.IGNORECASE,
)

ADVICE = {
    400: "Correct the setting it names.",
    401: "Check the API key.",
    402: "Add credit with the provider.",
    403: "The key may not use this model or server.",
    404: "Check --base-url (it ends in /v1 for most servers) and the model's name.",
    407: "Check the proxy's user and password.",
    422: "Correct the setting it names.",
}
_BUSY_SAID = re.compile(
    r"overloaded|queue is full|pending requests|at capacity|too many requests"
    r"|is (?:still |currently )?loading|loading model",
    re.IGNORECASE,
)
STRAIN = frozenset({429, 503, 504, 529})
AGAIN = frozenset({408, 409, 423, 424, 425, 440, 444, 460, 499})  # the attempt's, though they begin with 4
NEVER = frozenset({501, 505})  # the server cannot, and says so


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no reply, and what follows from that.

    Attributes:
        name: short, for the ledger: ``429``, ``timeout``, ``reset``, ``garbled``, ...
        then: ``retry`` (this attempt failed), ``down`` (the server is not there), ``pause`` (the server
            asks for a pause, all wait), ``row`` (this request is final, with ``status``), ``refused``
            (the request is refused and nobody knows yet why), or ``stop`` (no request can succeed).
        sentence: what happened, for the user; holds no key.
        http: the status code, or None.
        headers: of the response, or none.
        maybe_billed: whether the server may have charged for it.
        strain: whether it is a sign of an overloaded server.
        status: the row's status when ``then`` is ``row``.
        wait: the seconds that the server asks to wait, or None when it names none.
        advice: what to do about it where it is a setting's fault.
        body: the error as it came, for whoever reads what it names; may hold secrets, so it is never shown.
    """

    name: str
    then: str
    sentence: str
    http: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    maybe_billed: bool = False
    strain: bool = False
    status: str = ""
    wait: float | None = None
    advice: str = ""
    body: object = field(default=None, repr=False)

    @property
    def likeness(self) -> tuple[str, str]:
        """What two refusals for the same reason share: their wording without its numbers."""
        words = re.sub(r"\S*\d\S*", "#", self.sentence.casefold())
        return self.name, " ".join(words.split())[:120]


def fault_of(
    code: int,
    headers: Mapping[str, str],
    body: object,
    *,
    url: str,
    now: float,
    clean: Callable[[str], str] = str,
    keyless: str = "",
) -> Fault:
    """Return what a status code with an error body means.

    Args:
        code: the HTTP status.
        headers: of the response.
        body: the body, decoded as far as it could be.
        url: the server's, for the sentence.
        now: seconds since 1970, for dates.
        clean: takes secrets out of what the server said.
        keyless: what to do where it asks for a key, when none was sent.
    """
    body = opened(body)
    said = clean(message(body))[:SAID]
    marks, wait = marks_of(body), come_back(headers, body, now)
    sentence = f"{url} answered {code}{': ' if said else ''}{said}".rstrip(". ")
    then, status = _meaning(code, marks, said, wait)
    if then == "row":
        sentence = f"{_ROW[status]} ({code}{': ' if said else ''}{said})"
    elif then == "stop":
        sentence = f"{sentence}. {_remedy(code, marks, said, keyless)}"
    return Fault(
        str(code), then, sentence, code, headers,
        strain=code in STRAIN, status=status, wait=wait,
        advice=_advice(code, said, keyless), body=body,
    )  # fmt: skip


_ROW = {
    TRUNCATED: "the prompt does not fit the judge's context",
    FILTERED: "the server's content filter refused the prompt",
    REJECTED: "refused by the server",
}


def _meaning(code: int, marks: frozenset[str], said: str, wait: float | None) -> tuple[str, str]:  # noqa: PLR0911 - one line a meaning
    if 300 <= code < 400:
        return "stop", ""
    if marks & IN_FLIGHT or (marks & OVERLOADED and code >= 400):
        return "pause", ""
    if marks & LONG or code == 413 or (_LONG_SAID.search(said) and _may_be_long(code, said)):
        return "row", REJECTED if "weight_exceeds_budget" in marks else TRUNCATED
    if code < 500 and code not in {401, 429} and (marks & FILTERS or _FILTER_SAID.search(said)):
        return "row", FILTERED
    account = bool(marks & ACCOUNT) or (
        code in {400, 403, 429} and _ACCOUNT_SAID.search(said) and wait is None
    )
    if code in {401, 402, 407} or account or (marks & OVER_QUOTA and wait is None):
        return "stop", ""
    if code == 403 and (marks & KEY or "limit_source" in marks or _KEY_SAID.search(said)):
        return "stop", ""
    if code in {429, 529} or (code == 503 and (wait is not None or _BUSY_SAID.search(said))):
        return "pause", ""
    if code in AGAIN or (code >= 500 and code not in NEVER) or code < 300:
        return "retry", ""
    return "refused", ""


def _may_be_long(code: int, said: str) -> bool:
    """Return whether the words about a length are about the row: a 429 says it only of what never fits."""
    if code == 429:
        return bool(re.search(r"request too large", said, re.IGNORECASE))
    return code in {400, 403, 404, 422, 500}


def _remedy(code: int, marks: frozenset[str], said: str, keyless: str) -> str:
    if 300 <= code < 400:
        return "This is a redirect, which is not followed. Give the final --base-url."
    if code == 402 or marks & (ACCOUNT | OVER_QUOTA) or (code != 401 and _ACCOUNT_SAID.search(said)):
        return "The quota is used up; add credit and run again."
    return _advice(code, said, keyless)


def _advice(code: int, said: str, keyless: str) -> str:
    if keyless and (code in {401, 403} or _KEY_SAID.search(said)):
        return keyless
    return ADVICE.get(code, "Nothing can be judged this way.")


def opened(body: object) -> object:
    """Return a body decoded as far as possible: JSON out of text, the error out of a list of one."""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str) and body.lstrip()[:1] in {"{", "["}:
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return body
    return body


def message(body: object) -> str:
    """Return what a server said, out of whatever its JSON looks like; empty for a page of HTML."""
    return " ".join(_words(body, 0).split())


def _words(body: object, depth: int) -> str:
    if depth > DEPTH:
        return ""
    if isinstance(body, str):
        return _plain(body.strip(), depth)
    if isinstance(body, list):
        return "; ".join(filter(None, (_words(part, depth + 1) for part in body[:5])))
    return _named(body, depth) if isinstance(body, Mapping) else ""


def _plain(text: str, depth: int) -> str:
    inner = opened(text)
    if not isinstance(inner, str):  # JSON inside a message
        return _words(inner, depth + 1) or text
    return "" if "<html" in text.lower() or "<!doctype" in text.lower() else text


def _named(body: Mapping[str, Any], depth: int) -> str:
    for name in ("message", "error", "detail", "msg", "errors", "error_message", "title", "reason"):
        text = _words(body[name], depth + 1) if body.get(name) else ""
        if not text:
            continue
        if name == "msg" and isinstance(body.get("loc"), list):
            return f"{'.'.join(map(str, body['loc']))}: {text}"
        inner = body.get("metadata")
        raw = inner.get("raw") if isinstance(inner, Mapping) else None  # what the server behind it said
        return f"{text}: {_words(raw, depth + 1)}" if isinstance(raw, str) and raw else text
    return ""


_MARKS = frozenset({"code", "type", "status", "error_code", "error_type", "reason"})


def marks_of(body: object) -> frozenset[str]:
    """Return every word under which a body may name its error, in small letters, at any depth."""
    return frozenset(_marks(opened(body), 0))


def _marks(body: Any, depth: int) -> Iterator[str]:
    if depth > DEPTH:
        return
    if isinstance(body, list):
        for part in body[:20]:
            yield from _marks(part, depth + 1)
    elif isinstance(body, Mapping):
        for name, value in body.items():
            yield from _mark(name, value)
            inner = opened(value) if name in {"message", "error"} else value
            yield from _marks(inner, depth + 1)


def _mark(name: str, value: Any) -> Iterator[str]:
    if name == "limit_source":
        yield name
    elif name in _MARKS and isinstance(value, str | int):
        yield str(value).casefold()
    elif name == "error" and isinstance(value, str) and re.fullmatch(r"[a-z_]{3,60}", value):
        yield value


def error_within(body: object) -> tuple[int, object] | None:
    """Return the status and the body of an error that came under a status of 200, or None."""
    body = opened(body)
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, Mapping) or not body.get("error") or body.get("choices"):
        return None
    inner = body["error"]
    code = inner.get("code") if isinstance(inner, Mapping) else body.get("code")
    try:
        number = int(code)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0
    # A 200 that holds an error without a status of its own says nothing of whose fault it is.
    return (number if 400 <= number <= 599 else 500), body
