"""What a model on a server accepts, tried once and kept in the ledger, never assumed.

Newer models refuse a temperature, some servers give no log probabilities, some want the answer's
limit under another name. One call that asks for everything settles it where all is accepted; a
refusal is taken apart in a few small calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dfilter.errors import ServerError
from dfilter.llm.faults import Fault
from dfilter.llm.tokens import at_most
from dfilter.llm.wire import Got, encode
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.engine import Engine

QUESTION = ({"role": "user", "content": "Reply with the digit 3 and nothing else."},)
PROBE_TOKENS = 16
TRIES = 3  # of a request that asks for more than an answer: a server may break where it should refuse
TOPS = (20, 5)  # the most that common servers give, and OpenAI's older limit
SCHEMA: Mapping[str, Json] = {
    "type": "json_schema",
    "json_schema": {
        "name": "digit",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"digit": {"type": "integer"}},
            "required": ["digit"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Capabilities:
    """What was accepted.

    Attributes:
        temperature: whether a temperature may be given.
        top_logprobs: how many alternatives a token come with log probabilities; 0 for none.
        structured: whether a JSON schema for the answer is accepted.
        limit: the name of the answer's token limit.
    """

    temperature: bool = True
    top_logprobs: int = 20
    structured: bool = True
    limit: str = "max_tokens"

    def adapt(self, params: Mapping[str, Json]) -> dict[str, Json]:
        """Return the parameters in the form that this model accepts."""
        out = dict(params)
        if not self.temperature:
            out.pop("temperature", None)
            out.pop("top_p", None)
        if self.limit != "max_tokens" and "max_tokens" in out:
            out[self.limit] = out.pop("max_tokens")
        if not self.top_logprobs:
            out.pop("logprobs", None)
            out.pop("top_logprobs", None)
        elif isinstance(most := out.get("top_logprobs"), int):
            out["top_logprobs"] = min(most, self.top_logprobs)
        if not self.structured:
            out.pop("response_format", None)
        return out


async def probe(engine: Engine) -> Capabilities:
    """Return what the engine's model accepts, asking the server when the ledger does not know.

    Raises:
        ServerError: the model answers nothing at all.
    """
    server = engine.server
    known = engine.ledger.capability(server.identity, server.model)
    if known is not None:
        return Capabilities(**known)
    found = await _everything(engine) or await _apart(engine)
    engine.ledger.keep_capability(server.identity, server.model, asdict(found))
    return found


async def _everything(engine: Engine) -> Capabilities | None:
    outcome = await _try(
        engine,
        max_tokens=PROBE_TOKENS,
        temperature=0,
        logprobs=True,
        top_logprobs=TOPS[0],
        response_format=SCHEMA,
    )
    return Capabilities() if isinstance(outcome, Got) and outcome.reply.logprobs else None


async def _apart(engine: Engine) -> Capabilities:
    limit = "max_tokens"
    base = await _try(engine, max_tokens=PROBE_TOKENS)
    if isinstance(base, Fault):
        limit = "max_completion_tokens"
        again = await _try(engine, max_completion_tokens=PROBE_TOKENS)
        if isinstance(again, Fault):
            raise ServerError(f"{base.sentence}. {base.advice}")
    size: dict[str, Any] = {limit: PROBE_TOKENS}
    warm = await _try(engine, **size, temperature=0)
    tops = 0
    for most in TOPS:
        outcome = await _try(engine, **size, logprobs=True, top_logprobs=most)
        if isinstance(outcome, Got) and outcome.reply.logprobs:
            tops = most
            break
    shaped = await _try(engine, **size, response_format=SCHEMA)
    return Capabilities(isinstance(warm, Got), tops, isinstance(shaped, Got), limit)


async def _try(engine: Engine, **params: Json) -> Got | Fault:
    body = encode(engine.server.model, QUESTION, params)
    worst = at_most(QUESTION)
    usd = engine.price.cost(worst, PROBE_TOKENS) if engine.price else 0.0
    plain = set(params) <= {"max_tokens", "max_completion_tokens"}
    key = hashlib.blake2b(body, digest_size=16).digest()
    outcome = await engine.single(key, body, worst + PROBE_TOKENS, usd, tries=0 if plain else TRIES)
    if isinstance(outcome, Fault) and outcome.then == "stop":
        raise ServerError(outcome.sentence)  # no parameter's fault
    return outcome
