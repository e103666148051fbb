"""Which of an answer's lines are the judge's own words, and not a quotation of what it judges.

A row can hold anything, and a judge may repeat it: a score, a code block, a whole reply. So nothing that
stands in quotation marks, in a quoted block, in a code block after prose, between a prompt's fences, or
below words that announce a quotation is the judge's.
"""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dfilter.llm.labels import begins_with_label, label_of

FENCES = ("```", "~~~")

_FENCE = re.compile(r"<<<\s*(\w{6,})")
_QUOTED = re.compile(
    r'"[^"\n]*"|“[^”\n]*”|„[^“”\n]*[“”]|«[^»\n]*»|「[^」\n]*」|『[^』\n]*』|‹[^›\n]*›|`[^`\n]*[^\W\d_][^`\n]*`'
)
_QUOTE = re.compile(r'["“”„«»「」『』‹›]')
_NUMBERED = re.compile(r"\d{1,2}[.)]\s+(?=[^\W\d])")
_OPENS = re.compile(r"(?<![\w'])'(?=[\w\[#*<{(\"]|\s*\Z)")  # a single quotation mark that opens
_CLOSES = re.compile(r"(?<=[^\s'])'(?!\w)")

# What repeats the row: verbs, and its name in other languages. English verbs are known well enough.
VERBS = (
    r"(?:says?|said|states?|stated|reads?|writes?|wrote|written|claims?|contains?|includes?|gives?|gave|ends?|begins?"
    r"|starts?|outputs?|returns?|quotes?|quoted|repeats?|replies|replied|answers|answered|asks?|find|found|see|shows?"
    r"|presents?|provides?|offers?|adds?|appends?|concludes?|finishes|closes|opens|mentions?|demands?"
    r"|goes|its|itself)"
)
_VERB = re.compile(rf"\b{VERBS}\b", re.IGNORECASE)
_THE_ROW = re.compile(
    r"\b(?:Antwort|réponse|respuesta|resposta|risposta|antwoord|svar|odpowied\w*|ответ\w*|yanıt)\b"
    r"|الإجابة|الرد|उत्तर|जवाब|回答|回复|回覆|答案|响应|応答|返答|原文|응답|답변",
    re.IGNORECASE,
)
# What heads the judge's own parts: its verdict, and what leads to it.
_VERDICT = re.compile(
    r"\b(?:my|evaluat\w*|assess\w*|scor\w*|rating\w*|grad\w*|verdict|judge?ment|analysis|review|feedback|json|final"
    r"|overall|conclusion|Bewertung|Begründung|évaluation|evaluación|avaliação|оценк\w*)\b|评|評|打分|得分|평가",
    re.IGNORECASE,
)
_PARTS = re.compile(
    r"\b(?:strengths?|weakness(?:es)?|pros|cons|errors?|issues?|problems?|mistakes?|flaws?|explanations?"
    r"|reasons?|reasoning|rationale|justification|comments?|summary|notes?|observations?|positives?|negatives?"
    r"|improvements?|steps?|Stärken|Schwächen|Erklärung|points forts|points faibles|fortalezas|debilidades)\b"
    r"|优点|缺点|理由|说明|分析|長所|短所|이유",
    re.IGNORECASE,
)
# Words in the middle of a line after which another speaks: "The response says: Score: 5".
_ANNOUNCED = re.compile(
    rf"\b{VERBS}(?:\s+(?:with|by|that|as follows))?\s*:(?=\s*\S)"
    r"|\A(?:the\s+|model(?:'s)?\s+|assistant(?:'s)?\s+)?(?:response|answer|output|reply|assistant|text|instruction"
    r"|input|user|prompt)(?:\s+text)?\s*:(?![\W_]*(?:boxed\W*)?\d)(?=\s*\S)",
    re.IGNORECASE,
)
_SHOWS = re.compile(
    rf"\b{VERBS}\s+(?:the\s+)?(?:following\s+)?(?:text|lines?|words?|phrase|sentence|string|message|note|tag)\b"
    r"|\b(?:trick|manipulat|inject|fool|jailbreak)\w*(?=[^.!?]*\w)"
    r"|\bto say\b"
    r"|\b(?:quoting|(?:restate|recite|reproduce|repeat)\s+(?:the|its|his|what))\b|\bputs it\b"
    r"|\A\W*original text\b"
    r"|\b(?:tells?|asks?|orders?|instructs?|wants?|urges?|begs?|commands?)\s+(?:me|us|you|the judge)\b"
    r"|<\s*(?:response|quote|pre|code|blockquote|q|text|instruction|input|output|assistant|user)\b",
    re.IGNORECASE,
)
# What was before is another's: "Score: 5 is what it says".
_WAS = re.compile(
    r"\b(?:is|was|here['’]s) what\b|\bfrom the (?:response|answer|output|text|row)\b"
    r"|\b(?:is|was) in the (?:response|text|output)\b|<-",
    re.IGNORECASE,
)
_ENDS_THE_ROW = re.compile(
    r"[<\[(]\s*/\s*(?:response|quote|pre|code|blockquote|q|text|instruction|input|output|assistant|user)\b",
    re.IGNORECASE,
)
_NAMES_THE_ROW = re.compile(
    r"\W*(?:the\s+)?(?:(?:model|assistant|user|original)(?:'s)?\s+)?(?:response|output|reply|text|prompt|instruction|input"
    r"|quote|quotation)(?:\s+(?:begins|starts|text))?\W*",
    re.IGNORECASE,
)
_SHOWN = re.compile(  # a quick look before the slow one
    r"text|line|word|phrase|sentence|string|message|note|tag|trick|manipul|inject|fool|jailb|what|say"
    r"|restate|recite|reproduce|quot|repeat|puts|tell|ask|order|instruct|want|urge|beg|command|<",
    re.IGNORECASE,
)
_FAULTS = re.compile(
    r"\b(?:strengths|weaknesses|errors?|issues?|problems?|mistakes?|flaws?|points|aspects|criteria)\s*:\Z",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|was|are|were|this|below|like)\s*:(?![\W_]*\d)(?=\s*\S)", re.IGNORECASE)
_COLON = re.compile(r"\A([^:.!?。]{1,120}):(?![\W_]*\d)(?=\s*\S)")


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


def undressed(text: str) -> str:
    """Return a line without Markdown's marks; between two digits they stay (``4*5``)."""
    text = re.sub(r"(?<![\w.,])[*_`]+|[*_`]+(?![\w.,])", "", text).strip()
    text = re.sub(r"\A#+\s+", "", text)
    text = re.sub(r"\A(?:[-+•·▪►➤→⇒]\s+)+", "", text)
    number = _NUMBERED.match(text)  # a list's, before a label; else it may be the score
    text = text[number.end() :] if number and begins_with_label(text[number.end() :]) else text
    if text and unicodedata.category(text[0]) == "So":  # a star, a pointing hand
        text = text[1:].lstrip("\ufe0f ")
    text = re.sub(r'\A"(\w[\w ]{0,30})"\s*:', r"\1:", text)  # a line of an object
    text = re.sub(r"</?(?:b|i|strong|em|p|br|center|u)\s*/?>", "", text, flags=re.IGNORECASE)
    return re.sub(r"(?<![\w.,])[*_`]+|[*_`]+(?![\w.,])", "", text).strip()


def lines_of(text: str) -> list[Line]:
    """Return the lines that are not blank, each with whether it is the judge's own."""
    raws = text.split("\n")
    inside = _in_code(raws)
    out: list[Line] = []
    fence = ""
    quoting = tainted = found = announced = blank = False
    for raw, code in zip(raws, inside, strict=True):
        if not raw.strip():
            quoting, found, blank = False, False, True
        if not raw.strip() or code is None:
            continue
        if opening := _FENCE.search(raw):
            fence = opening[1]
        quoting = quoting or raw.lstrip().startswith(">")  # a quoted block goes on until a blank line
        indented = bool(out) and blank and raw.startswith("    ")  # Markdown's other way to quote code
        own = not (tainted or found or quoting or fence or code or indented)
        words = _masked(undressed(_code_masked(_before_code(raw)) if out else _before_code(raw)))
        blank = False
        if own:
            words, tainted, found = _heard(words)
        out.append(Line(words, own, len(out), announced))
        if fence and f"{fence}>>>" in raw:
            fence = ""
        announced = words.endswith(":") and not heading(words)
    return _sure(out, raws)


def _heard(words: str) -> tuple[str, bool, bool]:
    """Return a line up to where another speaks; whether all that follows is doubtful, or up to a blank."""
    if _WAS.search(words):
        return "…", True, False
    speaks = _SHOWN.search(words) and _SHOWS.search(words)
    if ":" in words and not speaks:
        speaks = _ANNOUNCED.search(words) or _IS.search(words)
        if speaks and speaks.re is _IS and _VERDICT.search(words[: speaks.start()]):
            speaks = None
    if _NAMES_THE_ROW.fullmatch(words):
        return words, True, False
    if speaks:
        return f"{words[: speaks.end()]} …", True, False
    colon = _COLON.match(words) if ":" in words else None
    if colon and not _heads(colon[0]) and label_of(colon[1], "") is None:
        if _THE_ROW.search(colon[1]):
            return f"{colon[0]} …", True, False
        if len(colon[1].split()) >= 4:
            return f"{colon[0]} …", False, True
    return words, announces(words) or _runs_on(words), False


def _sure(lines: list[Line], raws: Sequence[str]) -> list[Line]:
    """Return lines of which only the first is the judge's where a quotation goes over several."""
    if len(lines) == 1 and (whole := _QUOTED.fullmatch(lines[0].text)):
        return [Line(whole[0][1:-1].strip(), lines[0].own, 0, announced=False)]
    if any(_ENDS_THE_ROW.search(raw) for raw in raws):  # whatever it ends may have begun with the first line
        return [Line(x.text, own=False, number=x.number, announced=x.announced) for x in lines]
    open_code = any(raw.count("`") % 2 or '""' in raw for raw in raws if not raw.lstrip().startswith(FENCES))
    if not open_code and not any(_opens(line.text) for line in lines):
        return lines
    return [Line(x.text, x.own and not x.number and not _opens(x.text), x.number, x.announced) for x in lines]


def _opens(text: str) -> bool:
    """Whether a quotation begins or ends in a line, and not both."""
    last = max((found.start() for found in _OPENS.finditer(text)), default=-1)
    return bool(_QUOTE.search(text)) or (last >= 0 and not _CLOSES.search(text, last + 1))


def _code_masked(raw: str) -> str:
    """Return a line with an ellipsis for words in code marks."""
    return re.sub(r"(`+)[^`\n]*[^\W\d_][^`\n]*\1", " … ", raw) if "`" in raw else raw


def _before_code(raw: str) -> str:
    """Return a line up to a code block that begins in its middle."""
    return raw if raw.lstrip().startswith(FENCES) else raw.partition("```")[0].partition("~~~")[0]


def _in_code(raws: Sequence[str]) -> list[bool | None]:
    """Return for each line whether it stands in a code block that is not the answer; None for a block's mark.

    What is quoted may hold marks as well, so everything between the first and the last one counts as quoted.
    """
    marks = [
        at
        for at, raw in enumerate(raws)
        if raw.lstrip().startswith(FENCES) or raw.count("```") % 2 or raw.count("~~~") % 2
    ]
    out: list[bool | None] = [False] * len(raws)
    if not marks:
        return out
    before = [raw for raw in raws[: marks[0]] if raw.strip()]
    answer = len(before) <= 1 and all(heading(undressed(raw)) for raw in before)
    answer = answer and raws[marks[0]].lstrip().startswith(FENCES) and len(marks) % 2 == 0
    begin = marks[0]
    if answer and len(marks) >= 2:  # the answer stands in the first block
        begin = marks[2] if len(marks) > 2 else len(raws)
    end = marks[-1] if len(marks) % 2 == 0 else len(raws)
    for at in range(begin + 1, end):
        out[at] = True
    for at in marks:
        out[at] = None if raws[at].lstrip().startswith(FENCES) else out[at]
    return out


def heading(text: str) -> bool:
    """Whether a line heads a verdict, as ``Evaluation:`` and ``Score:`` do."""
    return label_of(text, "") is not None or (_heads(text) and not _PARTS.search(text))


def _heads(text: str) -> bool:
    """Whether words before a colon head a part that is the judge's own."""
    own = _VERDICT.search(text) or _PARTS.search(text)
    other = _VERB.search(text) or _THE_ROW.search(text) or re.search(r"[\d…]", text)
    return text.rstrip().endswith(":") and bool(own) and not other


def announces(text: str) -> bool:
    """Whether a line announces something that may be a quotation."""
    return text.endswith(":") and label_of(text, "") is None and not _heads(text) and not _FAULTS.search(text)


def speaks_of_the_row(text: str) -> bool:
    """Whether a line announces a quotation or heads one."""
    return _heard(text)[1]


def _runs_on(text: str) -> bool:
    """Whether a line quotes and ends in the middle of a sentence."""
    return "…" in text and bool(_VERB.search(text)) and text[-1] not in ".!?。)"


def _masked(text: str) -> str:
    """Return a line with an ellipsis for what it quotes; a number alone after a label is none."""

    def mask(found: re.Match[str]) -> str:
        if found.start() > 40:
            return " … "
        inner, before = found[0][1:-1].strip(), text[: found.start()].strip()
        labelled = re.search(r"[:=]\Z", before) and len(before.split()) <= 3
        if labelled and re.fullmatch(r"[\d.,/ ]{1,9}", inner):
            return inner
        return found[0] if found[0] == text else " … "

    return _QUOTED.sub(mask, text)
