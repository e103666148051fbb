"""Which API key goes where: nowhere that nobody said it belongs to."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dfilter.errors import SettingsError

if TYPE_CHECKING:
    from dfilter.llm.server import Server

USUAL_KEY, NO_KEY = "OPENAI_API_KEY", "none"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEY_SHAPE = re.compile(r"\b(sk|key|pk)-[A-Za-z0-9_\-]{12,}")


class Secret:
    """An API key that does not print."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def reveal(self) -> str:
        """Return the key; only the transport calls this."""
        return self._value

    def redact(self, text: str) -> str:
        """Return ``text`` without the key, and without anything shaped like one."""
        if self._held:
            text = text.replace(self._value, "[key]")
        return KEY_SHAPE.sub("[key]", text)

    def within(self, raw: bytes) -> bool:
        """Return whether the key stands in ``raw``."""
        return self._held and self._value.encode() in raw

    @property
    def _held(self) -> bool:
        """Whether it is a key at all; what stands in its place is a word of everyday."""
        return len(self._value) >= 4 and self._value != NO_KEY


def pasted(names: str) -> list[str]:
    """Return what is wrong with the variables' names, with commas, where a key stands; it is not shown."""
    return [
        "key_env (--judge-key) takes the name of an environment variable, and got what looks like a key "
        "(not shown here). Put the key into a variable (export MY_KEY=...) and name that: --judge-key MY_KEY."
        for name in names.split(",")
        if name.strip() and name.strip() not in os.environ
        if KEY_SHAPE.search(name) or not VARIABLE.fullmatch(name.strip())
    ][:1]


def key_of(server: Server) -> Secret:
    """Return the server's API key.

    A variable that is named for the server is read for it. ``OPENAI_API_KEY`` goes where ``OPENAI_BASE_URL``
    says, and where that is not set, to OpenAI; no other address gets it unless it is named for that one.

    Raises:
        SettingsError: the variable that is named for it is not set, or the server is OpenAI's and there
            is no key.
    """
    if server.key_env == NO_KEY:
        return Secret(NO_KEY)
    variable, host, openai = server.key_env or USUAL_KEY, _host(server.url), _is_openai(server.url)
    key, belongs = os.environ.get(variable, "").strip(), bool(server.key_env) or _is_usual(server.url)
    if key and belongs:
        if not key.isascii() or not key.isprintable():
            raise SettingsError(f"{variable} holds characters that no API key has; set it again.")
        return Secret(key)
    if key and openai:
        raise SettingsError(
            f"{variable} is the key for OPENAI_BASE_URL and is not sent to {host}. Name the variable with "
            f"the key for {host}: --judge-key VARIABLE (key_env in a file)."
        )
    if server.key_env or openai:
        raise SettingsError(
            f"{variable} is not set, and {host} needs a key. Set it, or name another --base-url."
        )
    return Secret(NO_KEY)  # servers of one's own ask for no key, but the header must hold something


def keyless(server: Server) -> str:
    """Return what to do where a server asks for a key that it was not sent; nothing where it had one."""
    if server.key_env or _is_usual(server.url):
        return ""
    where = "(key_env in a file)"
    if os.environ.get(USUAL_KEY, "").strip():
        return (
            f"{USUAL_KEY} was not sent, because nobody said that it is the key of {_host(server.url)}; "
            f"--judge-key {USUAL_KEY} {where} says so, and another variable's name takes that one."
        )
    return f"No key was sent; --judge-key VARIABLE {where} names the variable with the server's key."


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _is_openai(url: str) -> bool:
    host = _host(url)
    return host == "openai.com" or host.endswith(".openai.com")


def _is_usual(url: str) -> bool:
    """Whether ``OPENAI_API_KEY`` belongs to an address."""
    usual = os.environ.get("OPENAI_BASE_URL", "").strip()
    return _origin(usual) == _origin(url) if usual else _is_openai(url)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return what tells one server from another: scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:  # no address; it is refused when it is used
        return url, "", None
    return parts.scheme, (parts.hostname or "").lower(), port
