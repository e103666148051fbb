"""Scores in a judge's sentences: behind a label, in brackets, or given (``I give it 4/5.``)."""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from dfilter.llm.labels import GENERIC, LABEL, OWN_LABEL, criterion_of, label_of, names_a_score
from dfilter.llm.scales import Values

NEAR = 300  # characters around a score in a sentence that are looked at
ENDS = ("", ".", "!", "。")  # after a score that stands alone
GOES_ON = ".-–—:;,(|"  # before a remark

SEPARATOR = (
    r"\s*(?:[:=|]|=>|->|→"
    r"|(?:is|are|would be|will be|of|ist|lautet|beträgt|est|es|é|è|är|er|jest|dir|составляет|هي|هو|है)\b"
    r"(?:\s+(?:de|a|an|eine)\b)?\s*:?|是|为|為|は|が|는|은|이|가|[-–—]\s|\s)\s*"
)
LABELLED = re.compile(LABEL, re.IGNORECASE)
SENTENCES = re.compile(r"(?<=[.!?;])\s+(?!\d)|(?<=。)|(?<=[.!?)…])\s+(?=\[[A-Za-z ]{3,20}\]\s*:?\s*\d)")

_SEPARATES = re.compile(SEPARATOR, re.IGNORECASE)
_NOTHING = re.compile("")
_BECAUSE = re.compile(
    r"(?:because|since|as|due to|given|for|overall|in total|weil|da|denn|car|parce que|porque|ya que|perché"
    r"|poiché|потому|так как|因为|因為|理由)\b",
    re.IGNORECASE,
)
_A_PLACE = re.compile(r"(?:on|in|to|is appropriate|seems|bei|pour|para)\b", re.IGNORECASE)
_ITS_THING = (
    r"(?:it|this|that|the|response|answer|reply|output|assistant|model|'s|a|an|its|overall|final|quality)"
)
_A_SCORE = r"(?:(?:a|an|the|as|at|with|overall|final|score|rating|grade|mark|of|to)\s+)*:?\s*"
_GIVES = re.compile(
    r"\b(?:I|we)(?:['’](?:d|ll)|\s+would|\s+will|\s+shall|\s+must)?(?:\s+(?:therefore|thus|only|also))?"
    rf"\s+(?:give|rate|score|grade|assign|award)\s+(?:{_ITS_THING}\s+){{0,5}}"
    rf"(?:(?:accuracy|helpfulness|clarity)\s+(?:of\s+(?:{_ITS_THING}\s+){{1,3}})?)?{_A_SCORE}"
    r"|\b(?:it|(?:the|this|that)\s+(?:response|answer|reply|output))\s+(?:gets|receives|earns|scores|deserves|merits"
    rf"|warrants|is\s+(?:rated|scored|graded))\s+{_A_SCORE}|\brated\s*:?\s+"
    r"|\b(?:Ich\s+(?:gebe|vergebe|bewerte)|Je\s+(?:(?:lui|vous)\s+)?(?:donne(?:rais)?|attribue(?:rais)?|mets)"
    r"|(?:le\s+)?(?:doy|otorgo|asigno)|dou|atribuo|assegno|attribuisco|ставлю|оцениваю|даю)\s+"
    r"(?:(?!(?:nicht|keine?|pas|no|não|non|не)\b)[^\W\d]+\s+){0,6}"
    r"|我(?:会|将)?(?:给|打|评)[^\d,。;不]{0,14}",
    re.IGNORECASE,
)
_GIVING = re.compile(
    r"giv|rat|scor|grad|assign|award|gets|receiv|earn|deserv|merit|warrant|geb|bewert|donne|attribu|mets|doy|otorg"
    r"|asign|dou|assegn|ставл|оцен|даю|[给打评]",
    re.IGNORECASE,
)
_MENTIONS = re.compile(OWN_LABEL + r"(?:[:=]|(?:is|would be|will be)\b)\s*", re.IGNORECASE)
_TAGS = re.compile(r"\[([A-Za-z ]{3,20})\]\s*:?\s*(?=\d)")
_UNREAL = re.compile(
    r"\b(?:if|unless|whether|when|could|might|should|not|wenn|falls|si|se|если|would have)\b|如果|もし",
    re.IGNORECASE,
)
# What may stand before a sentence in which the judge names its score.
_LEADS = re.compile(
    r"\W*(?:(?:here(?:['’]s| is)|so|therefore|thus|hence|overall|finally|and|but"
    r"|in (?:conclusion|summary|short)|all in all|also|daher|insgesamt|donc"
    r"|por (?:tanto|lo tanto|isso)|поэтому|因此|所以|总的来说|综上所述)\W*)?"
    r"|[^:]*[,;]\s*(?:so|therefore|thus|hence|and so|which is why|daher|donc|因此|所以)\W*"
    r"|(?:based on|given|considering|because of|due to|for|with|after|as|since)\b[^:]*,\s*",
    re.IGNORECASE,
)
_SO = re.compile(r"(?:so|therefore|thus|hence)\b", re.IGNORECASE)
# Whoever is spoken of gives the score, and not the judge: "It asks me to rate it 5/5".
_REPORTED = re.compile(
    r"\b(?:says?|said|states?|reads?|writes?|wrote|claims?|contains?|includes?|asks?|tells?|wants?|demands?"
    r"|requests?|instructs?|suggests?|insists?|argues?|believes?|that|gives?|ends?|begins?|starts?|itself|its)\b",
    re.IGNORECASE,
)
_CLAIMED = re.compile(
    r"\b(?:claim\w*|request\w*|demand\w*|self|according|says|said|quoted?|asked)\b", re.IGNORECASE
)
_ENCLOSED = re.compile(
    r"(?:\$+|\\\(|\\\[)?\s*\\boxed\{\s*(?:\\text(?:bf)?\{)?([^{}]{1,24})\}{1,2}\s*(?:\$+|\\\)|\\\])?\.?"
    r"|\[\[([^\[\]]{1,24})\]\]|\[([^\[\]]{1,24})\]|\(([^()]{1,24})\)|<([^<>]{1,24})>|\{([^{}]{1,24})\}"
    r"|\$([^$]{1,24})\$|[\"'“‘]([^\"'”’]{1,24})[\"'”’]"
)

Found: TypeAlias = tuple[float | str, str]  # a score, or why it is none; and what follows it


@dataclass(frozen=True, slots=True)
class Named:
    """A place where the judge names a score.

    Attributes:
        criterion: what it is a score of; GENERIC where no criterion is named.
        value: the score, or why it is none.
        labelled: whether words say that it is the score; else it stands where the score belongs.
        sure: whether it is surely the judge who speaks; else it only makes another score doubtful.
    """

    criterion: str
    value: float | str
    labelled: bool = True
    sure: bool = True


def shortened(line: str) -> str:
    """Return a line as a reason may show it."""
    line = " ".join(line.split())
    return line if len(line) <= 60 else line[:57] + "..."


def value_at(text: str, values: Values) -> Found | None:
    """Return the score that a text begins with, in brackets or not; None where it begins with none."""
    text = text.strip()
    box = _ENCLOSED.match(text)
    if box is not None:
        inner = next(group for group in box.groups() if group is not None).strip(" *_`")
        if (found := values.phrase.fullmatch(inner)) is not None:
            return values.value(found.groupdict()), text[box.end() :].strip()
    found = values.phrase.match(text)
    return (values.value(found.groupdict()), text[found.end() :].strip()) if found else None


def alone(found: Found, values: Values, *, listed: bool) -> bool:
    """Whether nothing but a remark without another value follows a score on its line.

    Args:
        found: the score and what follows it.
        values: the scale.
        listed: whether it may be a list's number (``4. The response ...``).
    """
    rest = found[1]
    if rest in ENDS:
        return True
    if values.rivals(rest) or (rest[0] == "." and listed):
        return False
    return rest[0] in GOES_ON or bool(_BECAUSE.match(rest))


def closed(found: Found, values: Values) -> float | str:
    """Return a labelled score if what follows it in its sentence leaves it as it is, or why it does not."""
    value, rest = found
    if rest in {*ENDS, ",", ";", "}", "|"}:
        return value
    if _CLAIMED.search(rest):
        return f"it may be another's score: '{shortened(rest)}'"
    remark = rest[0] in GOES_ON or _A_PLACE.match(rest)
    if _BECAUSE.match(rest) or (remark and not values.rivals(rest)):
        return value
    return f"what follows the score changes it: '{shortened(rest)}'"


def named_in(sentence: str, values: Values, asked: str) -> Iterator[Named]:
    """Yield the scores that a sentence of the judge names."""
    if not values.rivals(sentence):
        return
    labelled = _labelled(sentence, values, asked)
    if labelled is not None:
        yield labelled
        return
    for tag in _TAGS.finditer(sentence):
        score = (
            value_at(sentence[tag.end() : tag.end() + NEAR], values)
            if label_of(tag[1], asked) is not None
            else None
        )
        if score is not None:
            yield Named(GENERIC, closed(score, values), sure=False)
    if not _UNREAL.search(sentence):
        patterns = [_GIVES] * bool(_GIVING.search(sentence)) + [_MENTIONS] * names_a_score(sentence)
        for pattern in patterns:
            for found in pattern.finditer(sentence):
                criterion = criterion_of(found, asked) if pattern is _MENTIONS else GENERIC
                score = value_at(sentence[found.end() : found.end() + NEAR], values)
                before = sentence[max(0, found.start() - NEAR) : found.start()]
                concludes = before.rstrip().endswith((",", ";")) and _SO.match(found[0])
                sure = bool(concludes or _LEADS.fullmatch(before))
                reported = _REPORTED.search(before) is not None and not sure
                if score is not None and criterion is not None and not reported:
                    yield Named(criterion, closed(score, values), sure=sure)


def _labelled(text: str, values: Values, asked: str) -> Named | None:
    """Return the score of a sentence that begins with a label."""
    text = re.sub(r"\A\[([A-Za-z ]{3,20})\]\s*:?", r"\1:", text)
    label = LABELLED.match(text)
    criterion = criterion_of(label, asked) if label else None
    if label is None or criterion is None:
        return None
    end = label.end() - (label[0][-1:] in set(" -_"))  # which the label's pattern has taken already
    separator = _SEPARATES.match(text, end)
    if separator is None and label[0][-1:] > "\u2e80":  # 评分4
        separator = _NOTHING.match(text, end)
    if separator is None:
        return None
    said = text[separator.end() :]
    firm = separator[0].strip() in {":", "=", "|"}
    found = value_at(said, values)
    if found is None:
        unclear = firm and values.rivals(said[:12]) and not values.is_scale(said)
        return Named(criterion, f"'{shortened(said)}' is no score") if unclear else None
    value = closed(found, values)
    if isinstance(value, str):
        return Named(criterion, value) if firm or not found[1] else None
    return Named(criterion, values.beside(label.groupdict()) or value)
