"""Judge templates: text files with the prompt's parts, in which a row's texts are fenced.

A template has parts that begin with ``--- system``, ``--- user``, ``--- text``, ``--- expected`` and
``--- short``. System and user are the messages; ``text`` or ``expected`` ends the user message, as the mode
has it, and ``short`` does so instead of ``text`` for a judge that explains nothing.
A file without such lines is a user message as it stands. In it are replaced

    {instruction} {input} {response}     the row's texts, each between the fence's marks
    {instruction:bare} ...               the same without marks, to reproduce a published prompt
    {fence} {low} {high}                 the fence's word, and the ends of the scale
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dfilter.errors import SettingsError, suggest
from dfilter.llm.answers import ChatMessage
from dfilter.template_fields import defined
from dfilter.types import Example, Message

FOLDER = Path(__file__).with_name("templates")
SHORT = "short"
PARTS = ("system", "user", "text", "expected", SHORT)
FIELD = re.compile(r"\{(instruction|input|response|fence|low|high)(:bare)?\}")

# Texts that are written for a judge's eyes. They change no rating; they are counted and named.
SPEAKS_TO_JUDGE = re.compile(
    r"(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:of\s+)?(?:the\s+|your\s+)?(?:previous|above|prior|earlier)\s+"
    r"(?:instructions?|prompts?|rules?|text)"
    r"|(?:give|assign|award|rate|score)\s+(?:this|the|my|it)\s+(?:\w+\s+){0,3}(?:a\s+|the\s+|as\s+)?(?:perfect|full|highest|maximum|top|[0-9]+)"
    r"|(?:note|message|attention)\s+(?:to|for)\s+(?:the\s+)?(?:judge|grader|evaluator|rater)"
    r"|(?:this|the)\s+(?:response|answer)\s+(?:deserves|merits|should\s+(?:get|receive|be\s+(?:given|rated|scored)))"
    r"|\[\[\s*[0-9.]+\s*\]\]|<\|im_(?:start|end)\|>|\[/?INST\]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Template:
    """A judge's prompt.

    Attributes:
        name: the built-in's name, or the file's path.
        own: whether the wording is dfilter's own.
        parts: part name to its text.
    """

    name: str
    own: bool
    parts: tuple[tuple[str, str], ...]

    @property
    def wording(self) -> str:
        """Whose wording it is, for the summary."""
        digest = hashlib.blake2b(repr(self.parts).encode(), digest_size=4).hexdigest()
        return (
            f"dfilter's own wording, '{self.name}'" if self.own else f"the wording of {self.name} ({digest})"
        )

    def words(self, *, explained: bool) -> dict[str, str]:
        """Return the parts by which a judge is known; one that explains never sees the part ``short``."""
        return {part: text for part, text in self.parts if part != SHORT or not explained}

    @property
    def fenced(self) -> bool:
        """Whether every text of the row stands between marks."""
        return not any(":bare}" in text for _, text in self.parts)

    def messages(self, row: Example, mode: str, low: int, high: int) -> list[ChatMessage]:
        """Return the chat messages that ask for a rating of ``row``."""
        fence = hashlib.blake2b(row.key, digest_size=6, person=b"dfilter-fence").hexdigest()
        texts = {"instruction": instruction(row), "input": row.context, "response": response(row)}
        words = {"fence": fence, "low": str(low), "high": str(high)}

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name in words:
                return words[name]
            return texts[name] if match[2] else f"<<<{fence}\n{texts[name]}\n{fence}>>>"

        parts = dict(self.parts)
        ending = parts.get(mode, "")
        user = parts["user"].rstrip("\n") + (f"\n\n{ending.strip()}" if ending else "")
        out: list[ChatMessage] = []
        if parts.get("system"):
            out.append({"role": "system", "content": FIELD.sub(fill, parts["system"].strip())})
        out.append({"role": "user", "content": FIELD.sub(fill, user.strip("\n"))})
        return out


@cache
def _criteria() -> Mapping[str, str]:
    return {dict(load(name).parts)["user"]: name.replace("_", " ") for name in names()}


def asked_about(parts: Mapping[str, str]) -> str:
    """Return the criterion that a template asks about, given its parts; nothing for another's wording."""
    return _criteria().get(parts.get("user", ""), "")


def in_user_turn(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages for a model without a system's role: what it says begins the user's turn."""
    said = [m["content"] for m in messages if m["role"] == "system"]
    out = [m for m in messages if m["role"] != "system"]
    first = next((at for at, m in enumerate(out) if m["role"] == "user"), None)
    if not said or first is None:
        return list(messages)
    out[first] = {**out[first], "content": "\n\n".join([*said, out[first]["content"]])}
    return out


def instruction(row: Example) -> str:
    """Return a row's instruction; several turns before the response are shown with their roles."""
    before = defined(row.messages[: row.replies[0]], row.tools)
    if len(before) <= 1 and not row.tools:
        return row.instruction
    shown = transcript(before)
    if row.context and shown.endswith(row.context):
        return shown[: -len(row.context)].rstrip("\n")
    return shown


def response(row: Example) -> str:
    """Return a row's response; where it is pooled, all turns from the first of it on, with their roles."""
    after = row.messages[row.replies[0] :]
    return row.response if not row.pooled or len(after) == 1 else transcript(after)


def transcript(messages: Sequence[Message]) -> str:
    """Return turns with their roles."""
    return "\n\n".join(f"{m.role}: {m.content}" for m in messages)


def speaks_to_judge(row: Example) -> bool:
    """Return whether a row's text tries to talk to a judge."""
    return any(SPEAKS_TO_JUDGE.search(message.content) for message in row.messages)


def names() -> list[str]:
    """Return the built-in templates' names."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def load(name: str) -> Template:
    """Return a built-in template, or the one in a file.

    Raises:
        SettingsError: there is no such template, or it lacks the row's texts.
    """
    own = bool(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)) and (FOLDER / f"{name}.txt").is_file()
    path = FOLDER / f"{name}.txt" if own else Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if own or Path(name).suffix or "/" in name:
            raise SettingsError(f"The template {path} cannot be read: {error}.") from error
        raise SettingsError(
            f"There is no judge template named '{name}'. {suggest(name, names())} A path to a file works too."
        ) from error
    return parse(name, text, own=own)


def parse(name: str, text: str, *, own: bool = False) -> Template:
    """Return the template that a text describes.

    Raises:
        SettingsError: it does not show the instruction and the response, or has an unknown part.
    """
    pieces = re.split(r"(?m)^--- *(\w+) *$\n?", text)
    parts = [("user", text)] if len(pieces) == 1 else list(zip(pieces[1::2], pieces[2::2], strict=True))
    findings = [
        f"The template {name} has a part '{part}'; known are {', '.join(PARTS)}."
        for part, _ in parts
        if part not in PARTS
    ]
    shown = {match[1] for part, body in parts if part in {"system", "user"} for match in FIELD.finditer(body)}
    findings += [
        f"The template {name} does not show the row's {field}; put {{{field}}} where it belongs."
        for field in ("instruction", "response")
        if field not in shown
    ]
    if "user" not in dict(parts):
        findings.append(f"The template {name} has no user part.")
    if findings:
        raise SettingsError(*findings)
    return Template(name, own, tuple(parts))
