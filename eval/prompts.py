"""Test prompts: from a file of almost any form, or one of the four sets that AlpaGasus was judged on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.errors import InputError, ServerError
from dfilter.store import home
from dfilter.textmatch import clusters
from dfilter.types import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

DOWNLOAD_SECONDS = 30.0
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """One test prompt.

    Attributes:
        id: unique within an evaluation; the same file gives the same ids.
        messages: up to the turn that the model shall answer.
        test_set: name of the set it belongs to.
        answer: the known answer, or ""; of several, one below the other.
        answers: where several are known, each as it stands.
        unclear: what stands in the answer's place and is none; else empty.
        named: whether the id is of its own, and not the number of its row.
    """

    id: str
    messages: tuple[Message, ...]
    test_set: str
    answer: str = ""
    named: bool = False
    answers: tuple[str, ...] = ()
    unclear: str = ""

    @property
    def text(self) -> str:
        """All turns, separated by an empty line."""
        return _joined(self.messages)


@dataclass(frozen=True, slots=True)
class Published:
    """A prompt set as its project publishes it."""

    url: str
    sha256: str
    size: int


# The sets of AlpaGasus (arXiv 2307.08701, §4): 180 + 252 + 80 + 218 = 730 prompts.
SETS = {
    "koala": Published(
        "https://raw.githubusercontent.com/arnav-gudibande/koala-test-set/main/koala_test_set.jsonl",
        "c8cda5c53810dc30aad34fabbb828fe3eba0957119e00916650c971905d19886",
        180,
    ),
    "self-instruct": Published(
        "https://raw.githubusercontent.com/yizhongw/self-instruct/main/human_eval/user_oriented_instructions.jsonl",
        "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e",
        252,
    ),
    "vicuna": Published(
        "https://raw.githubusercontent.com/lm-sys/FastChat/589532dcfa83700f950b9aa3983416c543afabc0/"
        "fastchat/llm_judge/data/vicuna_bench/question.jsonl",
        "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5",
        80,
    ),
    "wizardlm": Published(
        "https://raw.githubusercontent.com/nlpxucan/WizardLM/ce0d433589335d419aa8101abd71685ae7d187f3/"
        "WizardLM/data/WizardLM_testset.jsonl",
        "e216ec20538a7040b908f654f1f767305460f0a71f01b3db9f3989c8a78f8245",
        218,
    ),
}


def read_prompts(source: str, *, answer: str = "answer") -> list[Prompt]:
    """Read test prompts.

    Args:
        source: a JSON or JSONL file, one of the named sets, or several of them joined by "+".
        answer: name of the column with the known answer.

    Raises:
        InputError: a file is absent, has no prompts, or repeats an id.
        ServerError: a named set cannot be fetched, or is not the published one.
    """
    parts = [part for part in source.split("+") if part]
    if Path(source).is_file():
        parts = [source]  # a "+" in a file's name
    found: list[Prompt] = []
    for part in parts:
        name = part if part in SETS else Path(part).stem
        rows = read_objects(fetch(part) if part in SETS else Path(part))
        found += [_prompt(row, at, name, answer, part) for at, row in enumerate(rows)]
    ids: dict[str, int] = {}
    for prompt in found:
        ids[prompt.id] = ids.get(prompt.id, 0) + 1
    twice = sorted(name for name, count in ids.items() if count > 1)
    if twice:
        raise InputError(
            f"{source} repeats {len(twice)} prompt ids, the first is '{twice[0]}'; ids must differ."
        )
    if not found:
        raise InputError(f"{source} holds no prompts.")
    return found


def read_answered(source: str, answer: str) -> list[Prompt]:
    """Read test prompts that all have a known answer in the column ``answer``.

    Raises:
        InputError: as :func:`read_prompts`, and where an answer is absent, empty, or neither a text, a number
            nor a list of these.
    """
    prompts = read_prompts(source, answer=answer)
    unclear = [prompt for prompt in prompts if prompt.unclear]
    if unclear:
        more = "" if len(unclear) == 1 else f" So it is with {len(unclear) - 1} more."
        raise InputError(
            f"Prompt '{unclear[0].id}' of {source} has {unclear[0].unclear} in column '{answer}'; expected a "
            f"text, a number, or a list of these that are all right.{more}"
        )
    blank = [prompt.id for prompt in prompts if not prompt.answer.strip()]
    if blank:
        more = "" if len(blank) == 1 else f", nor have {len(blank) - 1} others"
        raise InputError(f"Prompt '{blank[0]}' of {source} has no answer in column '{answer}'{more}.")
    return prompts


def fetch(name: str) -> Path:
    """Return the file of a named set, fetched and verified once, kept under ``DFILTER_HOME``.

    Raises:
        ServerError: it cannot be fetched, or its SHA-256 is not the known one.
    """
    from urllib.request import urlopen

    known = SETS[name]
    place = home() / "prompts" / f"{name}.jsonl"
    if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == known.sha256:
        return place
    instead = (
        f"Give a file of your own instead of '{name}' (JSONL with a column prompt), or put it at {place}."
    )
    try:
        with urlopen(known.url, timeout=DOWNLOAD_SECONDS) as answer:  # noqa: S310 - an https address of ours
            content: bytes = answer.read(MOST_BYTES)
    except OSError as error:
        raise ServerError(
            f"The prompt set '{name}' cannot be fetched from {known.url}: {error}. {instead}"
        ) from error
    if hashlib.sha256(content).hexdigest() != known.sha256:
        raise ServerError(f"{known.url} no longer holds the '{name}' set that is known here. {instead}")
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(place)
    return place


def read_objects(path: Path) -> list[Mapping[str, Any]]:
    """Read the objects of a JSON array or of JSONL.

    Raises:
        InputError: the file is absent or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"There is no file {path}. A prompt set is a JSON or JSONL file, or one of {', '.join(SETS)}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    try:
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is neither JSON nor JSONL: {error}.") from error
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {at + 1} is {type(row).__name__}, an object was expected.")
    return list(rows)


def _prompt(row: Mapping[str, Any], at: int, test_set: str, answer: str, source: str) -> Prompt:
    messages = _messages(row)
    if not messages:
        raise InputError(
            f"{source}: item {at + 1} has no prompt. Known columns: prompt, instruction (+ input), question, "
            f"text, turns, messages, conversations; it has {', '.join(row) or 'none'}."
        )
    own = row_id(row)
    known = row.get(answer)
    several = known if isinstance(known, list) else []
    alone = [] if known is None or isinstance(known, list) else [known]
    found = [one for one in [*several, *alone] if not _is_answer(one)]
    unclear = json.dumps(found[0], ensure_ascii=False)[:60] if found else ""
    answers = tuple(map(str, several))
    told = "\n".join(answers) if isinstance(known, list) else "" if known is None else str(known)
    name = at if own is None else own
    return Prompt(f"{test_set}/{name}", messages, test_set, told, own is not None, answers, unclear)


def _is_answer(value: Any) -> bool:
    return isinstance(value, bool | str | int) or (isinstance(value, float) and math.isfinite(value))


def row_id(row: Mapping[str, Any]) -> Any:
    """Return what a row is called, or none."""
    return next((row[key] for key in ("id", "question_id", "idx") if row.get(key) is not None), None)


def row_text(row: Mapping[str, Any]) -> str:
    """Return the text of a row's prompt as :attr:`Prompt.text` has it, or "" if it has none."""
    return _joined(_messages(row))


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.content for message in messages)


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the turns to answer; an assistant turn at the end is the reference and is left out."""
    for column in ("messages", "conversations", "turns"):
        turns = row.get(column)
        if isinstance(turns, list) and turns:
            return _asked(_turn(turn, at, alternate=column != "turns") for at, turn in enumerate(turns))
    low = {key.lower(): value for key, value in row.items()}
    text = next(
        (low[k] for k in ("prompt", "instruction", "question", "text") if isinstance(low.get(k), str)), ""
    )
    context = low.get("input") or ""
    instances = low.get("instances")  # Self-Instruct keeps the input one level down
    if not context and isinstance(instances, list) and instances and isinstance(instances[0], dict):
        context = instances[0].get("input") or ""
    joined = f"{text}\n\n{context}" if text and context else str(text or context)
    return (Message("user", joined),) if joined.strip() else ()


def _turn(turn: Any, at: int, *, alternate: bool) -> Message:
    if isinstance(turn, str):  # "turns" (FastChat) are all the user's; "conversations" (LIMA) alternate
        return Message("assistant" if alternate and at % 2 else "user", turn)
    role = str(turn.get("role") or turn.get("from") or "user")
    role = {"human": "user", "gpt": "assistant", "bot": "assistant"}.get(role, role)
    return Message(role, str(turn.get("content") or turn.get("value") or ""))


def _asked(turns: Any) -> tuple[Message, ...]:
    kept = list(turns)
    while kept and kept[-1].role == "assistant":
        kept.pop()
    return tuple(kept)


def shared_facts(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the facts that every evaluation of these prompts has: clusters and test sets, where any."""
    facts: dict[str, Any] = {}
    labels = clusters(prompt.text for prompt in prompts)
    if len(set(labels)) < len(labels):
        facts["clusters"] = labels
    if len({prompt.test_set for prompt in prompts}) > 1:
        facts["sets"] = [prompt.test_set for prompt in prompts]
    return facts
