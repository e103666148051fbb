"""What it means that a connection broke, or brought no HTTP."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence

from dfilter.llm.answers import GarbledError
from dfilter.llm.faults import Fault
from dfilter.llm.server import ForbiddenAddressError

AWAY = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})  # plain HTTP answered
MALFORMED = {  # what HTTP clients call an answer that they cannot read
    "BadHttpMessage": "its head is not one",
    "BadStatusLine": "its first line is not a status",
    "LineTooLong": "a line of its head is too long",
    "InvalidHeader": "a header is not one",
    "TransferEncodingError": "its chunks do not add up",
    "ContentEncodingError": "its encoding is not what it says",
    "ContentLengthError": "its length is not what it says",
    "ClientPayloadError": "its body broke off",
    "ClientResponseError": "it cannot be read",
    "RemoteProtocolError": "it breaks the protocol",
    "DecodingError": "its encoding is not what it says",
    "DecodeError": "its encoding is not what it says",
}


def broken(chain: Sequence[BaseException], url: str) -> Fault:
    """Return what a connection's error means.

    Args:
        chain: the error and its causes.
        url: the server's.
    """
    for meaning in (_own, _certificate, _tls, _away, _slow, _malformed):
        for cause in chain:
            fault = meaning(cause, url)
            if fault is not None:
                return fault
    return Fault("reset", "retry", "the connection broke", maybe_billed=True)


def _own(cause: BaseException, _: str) -> Fault | None:
    if isinstance(cause, ForbiddenAddressError):
        return Fault("forbidden", "stop", str(cause))
    if isinstance(cause, GarbledError):
        return Fault("garbled", "retry", str(cause), maybe_billed=True)
    return None


def _certificate(cause: BaseException, url: str) -> Fault | None:
    if not isinstance(cause, ssl.CertificateError):
        return None
    inner = getattr(cause, "certificate_error", cause)  # aiohttp wraps the one that says why
    why = getattr(inner, "verify_message", "") or str(inner)
    sentence = (
        f"The certificate of {url} cannot be trusted: {why}. If the server is yours, name the file with its "
        "certificate, or with that of its authority, in SSL_CERT_FILE. Nothing was sent."
    )
    return Fault("certificate", "stop", sentence)


def _tls(cause: BaseException, url: str) -> Fault | None:
    if not isinstance(cause, ssl.SSLError):
        return None
    if cause.reason in NO_TLS:
        sentence = f"{url} speaks no TLS. Give --base-url with http://, or the port where it does."
        return Fault("tls", "stop", sentence)
    why = (cause.reason or str(cause)).replace("_", " ").lower()
    return Fault("tls", "down", f"no encrypted connection to {url}: {why}")


def _away(cause: BaseException, url: str) -> Fault | None:
    if isinstance(cause, ConnectionRefusedError):
        return Fault("unreachable", "down", f"nothing answers at {url}", strain=True)
    if isinstance(cause, socket.gaierror):
        return Fault("unreachable", "down", f"nothing answers at {url}: no address has this name")
    if isinstance(cause, OSError) and cause.errno in AWAY:
        return Fault("unreachable", "down", f"nothing answers at {url}: {cause.strerror}", strain=True)
    return None


def _slow(cause: BaseException, _: str) -> Fault | None:
    if not isinstance(cause, TimeoutError):
        return None
    return Fault("timeout", "retry", "the connection timed out", maybe_billed=True, strain=True)


def _malformed(cause: BaseException, _: str) -> Fault | None:
    why = MALFORMED.get(type(cause).__name__)
    if why is None:
        return None
    return Fault("malformed", "retry", f"the answer is no HTTP: {why}", maybe_billed=True)
