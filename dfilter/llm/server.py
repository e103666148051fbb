"""A server and a model on it: where, with which key, how fast, how patient.

Addresses in the link-local ranges, where clouds keep their credentials, are refused by name, by
number, and again at the moment of connecting, so that no DNS answer leads there. Redirects are off.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from dfilter.errors import ServerError, SettingsError
from dfilter.identity import ANYHOW, PLACE, settings_identity, shown
from dfilter.llm.keys import pasted
from dfilter.types import Json

DEPLOYMENTS = "/openai/deployments/"
# Fields of a request that have a setting of their own, or that nothing here could deal with.
OWN = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"}
    | {"temperature", "logprobs", "top_logprobs", "reasoning_effort"}
)
SECONDS = (
    "attempt_seconds", "row_seconds", "longest_pause", "patience", "first_wait", "poll_seconds",
    "wait_for_server",
)  # fmt: skip
IMPORTED = "imported:"
OPENAI = "https://api.openai.com/v1"
METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
# Metadata services that do not live in a link-local range: AWS over IPv6, Alibaba, Oracle's.
METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Server:
    """A model on a server, and how to treat it.

    Attributes:
        model: the model's name on the server; ``local:NAME`` runs it in this process, ``imported:NAME`` is a
            judge whose ratings were imported, and is never asked.
        base_url: up to and with ``/v1``; empty takes ``OPENAI_BASE_URL``, else OpenAI's.
        key_env: the environment variable that holds the API key, or ``none``; empty takes
            ``OPENAI_API_KEY`` for OpenAI, or for ``OPENAI_BASE_URL`` where that is set, and no key for any
            other address.
        name: names the server in the ledger instead of its address, so that a server of yours keeps
            its answers when it moves to another port.
        api_version: Azure's, for its classic address (``https://NAME.openai.azure.com``, where the model
            is the deployment's name); its address that ends in ``/openai/v1`` needs none.
        system: ``turn`` gives the instructions in the system's turn, ``user`` at the beginning of the
            user's; ``auto`` asks the model once which it takes.
        reasoning_effort: how much a model thinks, in its own words (minimal, low, ...); empty leaves it.
        extra_body: further fields of every request, e.g. vLLM's
            ``{chat_template_kwargs = {enable_thinking = false}}``.
        thought_tokens: room for thought on top of an answer's tokens, for models that were seen to
            think within that limit.
        concurrency: most requests in flight; what the server bears is found out below that.
        requests_per_minute: never exceeded in any 60 s; 0 learns it from the server's headers.
        tokens_per_minute: the same, for prompt and answer tokens together.
        attempts: tries of one request before it counts as failed.
        attempt_seconds: deadline of one try.
        row_seconds: deadline of one request over all its tries; pauses that the server asked for
            do not count.
        longest_pause: a longer Retry-After than this many seconds is answered with one single
            request after that time, and the rest follow when it succeeds.
        patience: when nothing came back for so many seconds, the run says so.
        first_wait: the first back-off is drawn below so many seconds; every further one doubles it.
        poll_seconds: how often a batch is looked at.
        batch_rows: most requests in one batch; 50,000 is the API's published limit.
        batch_tokens: most tokens that may wait at the server in batches, as its tier allows; 0 for no limit.
        price: ``IN/OUT`` in US dollars per million tokens of prompt and of answer; empty takes the table's.
        wait_for_server: how many seconds a server that is down is waited for; then the run stops, and
            the same command goes on with it.
    """

    model: str
    base_url: Annotated[str, PLACE] = ""
    key_env: Annotated[str, ANYHOW] = ""
    name: Annotated[str, ANYHOW] = ""
    api_version: Annotated[str, ANYHOW] = ""
    # These three make a judge another one where they are set; see ``told``.
    system: Annotated[Literal["auto", "turn", "user"], ANYHOW] = "auto"
    reasoning_effort: Annotated[str, ANYHOW] = ""
    extra_body: Annotated[Mapping[str, Any], ANYHOW] = field(default_factory=dict)
    thought_tokens: Annotated[int, ANYHOW] = 8192
    concurrency: Annotated[int, ANYHOW] = 64
    requests_per_minute: Annotated[int, ANYHOW] = 0
    tokens_per_minute: Annotated[int, ANYHOW] = 0
    attempts: Annotated[int, ANYHOW] = 8
    attempt_seconds: Annotated[float, ANYHOW] = 120.0
    row_seconds: Annotated[float, ANYHOW] = 900.0
    longest_pause: Annotated[float, ANYHOW] = 3600.0
    patience: Annotated[float, ANYHOW] = 60.0
    first_wait: Annotated[float, ANYHOW] = 0.5
    poll_seconds: Annotated[float, ANYHOW] = 30.0
    wait_for_server: Annotated[float, ANYHOW] = 3600.0
    batch_rows: Annotated[int, ANYHOW] = 50_000
    batch_tokens: Annotated[int, ANYHOW] = 0
    price: Annotated[str, ANYHOW] = ""

    def __post_init__(self) -> None:
        findings = self.findings()
        if not self.model:
            findings.append("A model's name is empty; give one with --judge MODEL.")
        if "," in self.model:
            findings.append(f"'{self.model}' names several models; give each an entry of its own.")
        if not 1 <= self.concurrency <= 10_000:
            findings.append(f"concurrency = {self.concurrency}; expected 1 to 10000.")
        findings += [
            f"{name} = {getattr(self, name)}; expected 0 (learn it) or more."
            for name in ("requests_per_minute", "tokens_per_minute")
            if getattr(self, name) < 0
        ]
        if self.batch_rows < 1 or self.batch_tokens < 0:
            findings.append(
                f"batch_rows = {self.batch_rows}, batch_tokens = {self.batch_tokens}; expected 1 or more "
                "rows, and 0 (no limit) or more tokens."
            )
        if self.attempts < 1:
            findings.append(f"attempts = {self.attempts}; expected 1 or more.")
        findings += [
            f"{name} = {getattr(self, name)}; expected a number of seconds above 0."
            for name in SECONDS
            if not getattr(self, name) > 0
        ]
        if findings:
            raise SettingsError(*findings)

    def findings(self) -> list[str]:
        """Return what is wrong with the settings that say how a request looks."""
        found = [
            f"extra_body holds '{name}', which has a setting of its own."
            for name in sorted(OWN.intersection(self.extra_body))
        ]
        found += pasted(self.key_env)
        if self.thought_tokens < 0:
            found.append(f"thought_tokens = {self.thought_tokens}; expected 0 (no room) or more.")
        if self.price and "," not in self.price:  # one for each of several models
            from dfilter.llm.prices import read_price

            try:
                read_price(self.price)
            except SettingsError as error:
                found += error.findings
        if DEPLOYMENTS in self.base_url and not self.api_version:
            found.append(
                f"The address {self.base_url} is Azure's classic one and needs an api-version; set "
                'api_version (for instance "2024-10-21"), or give the address that ends in /openai/v1.'
            )
        return found

    def identify(self) -> Mapping[str, Json]:
        """Return the model and who answers for it: the server's name, else its address."""
        return settings_identity(self) | {"server": self.identity} | self.told

    @property
    def extras(self) -> dict[str, Json]:
        """Parameters of every request that are the user's own; never left out."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **self.extra_body}

    @property
    def told(self) -> dict[str, Json]:
        """What makes it another judge than one without these settings; nothing at the defaults."""
        return self.extras | ({"system": "user"} if self.system == "user" else {})

    @property
    def local(self) -> str:
        """The model's name without ``local:``, or empty when it runs on a server."""
        return self.model.removeprefix("local:") if self.model.startswith("local:") else ""

    @property
    def imported(self) -> bool:
        """Whether its ratings were made elsewhere and imported; nobody is asked then."""
        return self.model.startswith(IMPORTED)

    @property
    def url(self) -> str:
        """The address that is used, without a slash at its end."""
        given = (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
        given = given.removesuffix("/chat/completions")  # as Azure's portal shows it
        if self.api_version and "/openai" not in given:
            return f"{given}{DEPLOYMENTS}{quote(self.model, safe='')}"
        return given

    @property
    def classic(self) -> bool:
        """Whether it is Azure's address of a deployment, which takes its key in a header of its own."""
        return DEPLOYMENTS in self.url

    @property
    def identity(self) -> str:
        """What the ledger calls the server; a model in this process is its weights.

        Raises:
            ModelError: the weights of a ``local:`` model cannot be found.
        """
        if self.local:
            from dfilter.models import fast_dtype, resolve

            # Ratings of the format that most machines compute in keep the name that they always had.
            other = "" if fast_dtype() == "bfloat16" else f", {fast_dtype()}"
            day = shown("")  # its chat template may write a date
            return f"in process, weights {resolve(self.local).sha[:16]}{other}{day}"
        return IMPORTED.rstrip(":") if self.imported else self.name or self.url


def check_url(url: str) -> None:
    """Refuse what is not a plain http(s) address, or names a credential service.

    Raises:
        SettingsError: with a sentence that says what was expected.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError as error:
        raise SettingsError(f"The base URL is not an address: {error}.") from error
    shown = f"{parts.scheme}://{host}"
    if parts.scheme not in {"http", "https"} or not host:
        raise SettingsError(f"The base URL '{shown}' is not of the form http(s)://HOST[:PORT]/v1.")
    if parts.username or parts.password:
        raise SettingsError(
            f"The base URL for {host} holds a user name or password; keys belong in the environment."
        )
    if parts.query or parts.fragment:
        azure = " (api-version has a setting of its own, api_version)" * ("api-version" in parts.query)
        raise SettingsError(
            f"The base URL for {host} holds a query{azure}; expected http(s)://HOST[:PORT]/v1."
        )
    if host in METADATA_NAMES:
        raise SettingsError(refusal(host))
    for address in _literal(host):
        if forbidden(address):
            raise SettingsError(refusal(host))


def _literal(host: str) -> list[str]:
    """Return the address that a host is in numbers: dotted, IPv6, or the decimal and octal forms."""
    bare = host.split("%", maxsplit=1)[0]
    try:
        return [str(ipaddress.ip_address(bare))]
    except ValueError:
        pass
    if re.fullmatch(r"[0-9a-fx.]+", bare):
        try:
            return [socket.inet_ntoa(socket.inet_aton(bare))]
        except OSError:
            return []
    return []


def forbidden(address: str) -> bool:
    """Return whether an address is link-local or a cloud's metadata service, in any disguise."""
    try:
        ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    inner = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64 or int(ip) >> 32 == 0:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None and forbidden(str(inner)):
        return True
    return ip.is_link_local or ip.is_multicast or ip in METADATA_ADDRESSES


def refusal(host: str) -> str:
    """Return the sentence about a forbidden address."""
    return (
        f"{host} is a link-local or cloud metadata address, where credentials are kept; nothing goes there. "
        "Give the address of a language-model server."
    )


class ForbiddenAddressError(ServerError):
    """A connection would have gone to a forbidden address."""
