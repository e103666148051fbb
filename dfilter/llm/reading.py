"""What of a reply is the judge's own answer: its thoughts are taken off, what it quotes is set aside.

A row that is rated can hold anything, and a judge may repeat it: a score, a closing ``</think>``, a code
block, a whole reply. So nothing that stands in quotation marks, in a quoted block, in a code block after
prose, between a prompt's fences, or below a line that announces a quotation is the judge's.
"""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dfilter.llm.answers import OK, TRUNCATED, UNPARSED, Reading, Reply, unanswered
from dfilter.llm.labels import label_of

Read: TypeAlias = Callable[[str, bool], Reading]  # of an answer without thoughts; whether its end was cut off

LONGEST = 50_000  # characters after the thoughts; no judge rates in so many
MOST_ENDS = 20  # of thoughts in one reply

_NAMES = r"(?:[a-z]+:)?(?:think|thinking|thought|thoughts|reasoning|reason)"
OPENING = re.compile(
    rf"\s*(?:<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>\s*analysis)", re.IGNORECASE
)
CLOSING = re.compile(
    rf"</\s*{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    r"(?:\s*(?:<\|[\w ]{1,30}\|>|</s>|<s>|<end_of_turn>|<eos>|<\uff5cend\u2581of\u2581sentence\uff5c>))+\s*\Z"
)
_INVISIBLE = (0xFEFF, 0x200B, 0x200C, 0x200D, 0x2060, 0xAD, 0x61C, 0x200E, 0x200F)
_BLANKS = dict.fromkeys((*_INVISIBLE, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
_SIGNS = {0x66B: ".", 0x2212: "-", 0x2044: "/", 0x2215: "/"} | dict.fromkeys(
    (0x3000, 0xA0, 0x202F, 0x2009), " "
)
_SIGNS |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
_SIGNS[0xFF0C] = ", "  # never a decimal comma

_FENCE = re.compile(r"<<<\s*(\w{6,})")
_QUOTED = re.compile(
    r'"[^"\n]*"|“[^”\n]*”|„[^“”\n]*[“”]|«[^»\n]*»|「[^」\n]*」|『[^』\n]*』|`[^`\n]*[^\W\d_][^`\n]*`'
)
_QUOTE = re.compile(r'["“”„«»「」『』]')
# Words that speak of the row, verbs that repeat it, words that head the judge's own parts.
_VERBS = (
    r"(?:says?|said|states?|stated|reads?|writes?|wrote|claims?|contains?|includes?|gives?|gave|ends?|begins?|starts?"
    r"|outputs?|returns?|quotes?|quoted|repeats?|replies|replied|answers|answered|asks?|its|itself)"
)
_VERB = re.compile(rf"\b{_VERBS}\b", re.IGNORECASE)
_VERDICT = re.compile(
    r"\b(?:my|evaluat\w*|assess\w*|scor\w*|rating\w*|grad\w*|verdict|judge?ment|analysis|review|feedback|json|final"
    r"|overall|conclusion|Bewertung|Begründung|évaluation|evaluación|avaliação|оценк\w*)\b|评|評|打分|得分|평가",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"\b(?:strengths?|weakness(?:es)?|pros|cons|errors?|issues?|problems?|mistakes?|flaws?|explanations?"
    r"|reasons?|reasoning|rationale|justification|comments?|summary|notes?|observations?|positives?|negatives?|improvements?|steps?"
    r"|Stärken|Schwächen|Erklärung|points forts|points faibles|fortalezas|debilidades)\b"
    r"|优点|缺点|理由|说明|分析|長所|短所|이유",
    re.IGNORECASE,
)
# A colon in the middle of a line, after which another speaks: "The response says: Score: 5".
_ANNOUNCED = re.compile(
    rf"\b{_VERBS}(?:\s+with|\s+by)?\s*[:,](?=\s*\S)"
    r"|\A(?:the\s+|model(?:'s)?\s+|assistant(?:'s)?\s+)?(?:response|answer|output|reply|assistant|text|instruction|input|user|prompt)"
    r"(?:\s+text)?\s*:(?![\W_]*\d)(?=\s*\S)"
    r"|\A(?P<long>(?:[^\s:.!?]+\s+){3,}[^\s:.!?]+)\s*:(?![\W_]*\d)(?=\s*\S)",
    re.IGNORECASE,
)
_QUOTES_A_TAG = re.compile(
    rf"\b(?:{_VERBS}|tags?|inject\w*|manipulat\w*|trick\w*|attempts?|tries|follows|as)\b[^\n]{{0,80}}\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an answer that is not blank.

    Attributes:
        text: its words without Markdown; what it quotes is an ellipsis.
        own: whether it is the judge's own, and no quotation.
        number: its position among the lines that are not blank.
        announced: the line before it ends in a colon and is no heading of a verdict.
    """

    text: str
    own: bool
    number: int
    announced: bool


def settled(reply: Reply, read: Read) -> Reading:
    """Read a reply's answer, wherever its thoughts end.

    A closing tag may be quoted, in the thoughts as well as in the answer. So where there are several, the
    score after each of them must be the same; and where no tag opened, what stands before must not be
    an answer of its own.

    Args:
        reply: what the server said.
        read: reads an answer without thoughts, given whether its end was cut off; never raises.
    """
    missing = unanswered(reply)
    if missing is not None:
        return missing
    cut, ends = reply.finish == "length", [found.span() for found in CLOSING.finditer(reply.text)]
    if ends:
        return _after_thoughts(reply.text, ends, cut, read)
    if OPENING.match(reply.text):
        return Reading(TRUNCATED if cut else UNPARSED, reason="the answer ends within its thoughts")
    return _bounded(reply.text, cut, read)


def _after_thoughts(text: str, ends: Sequence[tuple[int, int]], cut: bool, read: Read) -> Reading:
    if len(ends) > MOST_ENDS:
        return Reading(UNPARSED, reason="it holds more ends of thoughts than can be told apart")
    found = [_bounded(text[end:], cut, read) for _, end in ends]
    if all(reading.status != OK for reading in found):
        return found[-1]
    several = any(reading.status != OK or reading.value != found[0].value for reading in found)
    if several or (not OPENING.match(text) and _answers(text[: ends[0][0]], found[0], read)):
        return Reading(UNPARSED, reason="where its thoughts end is not sure, and the score depends on it")
    return found[0]


def _bounded(text: str, cut: bool, read: Read) -> Reading:
    text = _SPECIAL.sub("", text.strip("\x00"))
    if len(text) > LONGEST:
        return Reading(UNPARSED, reason="the answer is too long to be a rating")
    if not text.strip():
        return Reading(TRUNCATED if cut else UNPARSED, reason="the answer ends before its score")
    return read(plain(text), cut)


def _answers(head: str, after: Reading, read: Read) -> bool:
    """Whether what stands before a closing tag is an answer of another score, or announces a quotation."""
    first = head.lstrip().partition("\n")[0]
    for part in (first, head[-LONGEST:]):
        before = _bounded(part, False, read)
        if before.status == OK and before.value != after.value:
            return True
    lines = lines_of(plain(head[-LONGEST:]))
    last = lines[-1] if lines else None
    return last is not None and (
        not last.own or _announces(last.text) or bool(_QUOTES_A_TAG.search(last.text))
    )


def plain(text: str) -> str:
    """Return a text with digits and signs of all scripts as ASCII writes them, and nothing invisible."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_SIGNS)
    text = re.sub(
        r"(?<=\d)[\ufeff\u200b-\u200d\u2060\u00ad]+(?=\d)", "\x00", text
    )  # two numbers, or one: nobody knows
    text = text.translate(_BLANKS)
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text)


def undressed(text: str) -> str:
    """Return a line without Markdown's marks; between two digits they stay (``4*5``)."""
    text = re.sub(r"(?<![\w.,])[*_`]+|[*_`]+(?![\w.,])", "", text).strip()
    text = re.sub(r"\A#+\s+", "", text)
    text = re.sub(r"\A(?:[-+•·▪►➤→⇒]\s+|\d{1,2}[.)]\s+(?=[^\W\d]))+", "", text)
    if text and unicodedata.category(text[0]) == "So":  # a star, a pointing hand
        text = text[1:].lstrip("\ufe0f ")
    text = re.sub(r"</?(?:b|i|strong|em|p|br|center|u)\s*/?>", "", text, flags=re.IGNORECASE)
    return re.sub(r"(?<![\w.,])[*_`]+|[*_`]+(?![\w.,])", "", text).strip()


def lines_of(text: str) -> list[Line]:
    """Return the lines that are not blank, each with whether it is the judge's own."""
    raws = text.split("\n")
    inside = _in_code(raws)
    out: list[Line] = []
    fence = ""
    quoting = tainted = announced = False
    for at, raw in enumerate(raws):
        if not raw.strip():
            quoting = False
        if not raw.strip() or inside[at] is None:
            continue
        if found := _FENCE.search(raw):
            fence = found[1]
        quoting = quoting or raw.lstrip().startswith(">")  # a quoted block goes on until a blank line
        own = not (tainted or quoting or fence or inside[at])
        words = _masked(undressed(raw), not out)
        if own and (says := _ANNOUNCED.search(words)) and not (says["long"] and _heads(says[0])):
            words, tainted = f"{words[: says.end()]} …", True  # what it goes on with is not the judge's
        out.append(Line(words, own, len(out), announced))
        if fence and f"{fence}>>>" in raw:
            fence = ""
        announced = words.endswith(":") and not heading(words)
        tainted = tainted or (own and (_announces(words) or _runs_on(words)))
    if len(out) == 1 and (whole := _QUOTED.fullmatch(out[0].text)):
        return [Line(whole[0][1:-1].strip(), out[0].own, 0, announced=False)]
    if any(_QUOTE.search(line.text) for line in out):
        # A quotation that goes over several lines: only the first line is surely the judge's.
        out = [Line(line.text, line.own and not line.number and not _QUOTE.search(line.text), line.number,
                    line.announced) for line in out]  # fmt: skip
    return out


def _in_code(raws: Sequence[str]) -> list[bool | None]:
    """Return for each line whether it stands in a code block that is not the answer; None for a block's mark.

    What is quoted may hold marks as well, so everything between the first and the last one counts as quoted.
    """
    marks = [at for at, raw in enumerate(raws) if raw.lstrip()[:3] in {"```", "~~~"}]
    out: list[bool | None] = [False] * len(raws)
    if not marks:
        return out
    before = [raw for raw in raws[: marks[0]] if raw.strip()]
    answer = len(before) <= 1 and all(heading(undressed(raw)) for raw in before)
    begin = marks[0]
    if answer and len(marks) >= 2:  # the answer stands in the first block
        begin = marks[2] if len(marks) > 2 else len(raws)
    end = marks[-1] if len(marks) % 2 == 0 else len(raws)
    for at in range(begin, end):
        out[at] = True
    for at in marks:
        out[at] = None
    return out


def heading(text: str) -> bool:
    """Whether a line heads a verdict, as ``Evaluation:`` and ``Score:`` do."""
    return label_of(text, "") is not None or (_heads(text) and not _HARMLESS.search(text))


def _heads(text: str) -> bool:
    """Whether words before a colon head a part that is the judge's own."""
    own = _VERDICT.search(text) or _HARMLESS.search(text)
    return text.rstrip().endswith(":") and bool(own) and not _VERB.search(text)


def _announces(text: str) -> bool:
    """Whether a line announces something that may be a quotation."""
    return text.endswith(":") and label_of(text, "") is None and not _heads(text)


def _runs_on(text: str) -> bool:
    """Whether a line quotes and ends in the middle of a sentence."""
    return "…" in text and bool(_VERB.search(text)) and text[-1] not in ".!?。！？)"


def _masked(text: str, first: bool) -> str:
    """Return a line with an ellipsis for what it quotes; a number alone after a label is none."""

    def mask(found: re.Match[str]) -> str:
        inner, before = found[0][1:-1].strip(), text[: found.start()].strip()
        if (
            re.fullmatch(r"[\d.,/ ]{1,9}", inner)
            and re.search(r"[:=]\Z", before)
            and len(before.split()) <= 3
        ):
            return inner
        return found[0] if first and found[0] == text else " … "

    return _QUOTED.sub(mask, text) if _QUOTE.search(text) or "`" in text else text
