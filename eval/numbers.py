r"""Numbers in text, by value: "1 234,50 €" and "$1,234.5" are one, and "4" in "42" is none.

:func:`marked` writes every number of a text in one form, between marks that occur in no text, so that
texts are compared as texts and numbers as numbers. What is understood, after Unicode's NFKC:

* signs: hyphens, dashes, minus and plus signs of any kind, with a blank or a currency sign behind them or
  not. Between two numbers they subtract; between a word and a number, with blanks around, they are a dash
  (after "is", "are", "equals", "of", "to" a sign); in front of a list's lines they are bullets;
* digits of every script, ".5", and one comma before other than three digits as the decimal mark ("3,14");
* thousands by comma (also "12,34,567"), blank, apostrophe or underscore; by full stop where there are two
  of them or a decimal comma ("1.234.567", "1.234,5"). "1,234" is a thousand, "1.234" is a little over one;
* percentages, currency signs, "Rs.500", "no.72", degrees, "3/4", "2½", "1.5e3", "10^3", "2 million", units
  behind ("46kg");
* what :mod:`dfilter.eval.latex` reads. "(1,2)" is a pair, and "(1,234)" a thousand.

No number are digits within something larger: words and ids ("A4"), versions, dates, times and ranges
("v1.2.3", "2024-01-05", "12:30", "10-20"), ordinals ("4th"), short scales ("5k", "2M", "5bn"), products,
quotients, powers, roots and functions ("5x", "x/3", "5^2", "√5", "log 5"), and words that begin with them
("18-year-old", "56ish", "the 20's"). In a sum with something else ("x - 2") a number is an operand, as in
"10 - 2". Values are exact fractions.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from dfilter.eval.latex import GROUPED, HIDDEN, NAMED, VARIABLE, plain, revealed

OPEN, CLOSE, OPERAND = "\ue000", "\ue001", "~"
GLUED = "\ue00a"  # between digits and a capital that is no unit
MOST_DIGITS = 400  # beyond it, digits are text
NEAR = 40  # characters in front of a number that tell what its sign is

_DASHES = dict.fromkeys(
    map(ord, "\u02d7\u2010\u2011\u2012\u2013\u2043\u207b\u208b\u2212\u2796\ufe58\ufe63"), "-"
)
_SIGNS: dict[int, str | None] = {
    **_DASHES,
    0x2015: "—",
    0x2795: "+",
    0x2044: "/",
    0x2215: "/",
    0x066B: ".",
    0x066A: "%",
}
_SIGNS |= dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u02b9\u2032\u066c\uff07"), "'")
_SIGNS |= dict.fromkeys(map(ord, OPEN + CLOSE + GLUED + HIDDEN + GROUPED))  # no text may hold our own marks
_MONEY = "[$£¤¥֏؋৲৳฿₠-⃀]"
_RAISED = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])|(?<=[¼-¾⅐-⅞])(?=\d)")  # 2½ is no 21/2
_STARRED = re.compile(r"(?<=\d) \* (?=\d)|(?<=[\d)]) ?\* ?(?=[b-hj-z](?![^\W_]|\*))")
_LETTERED = re.compile(r"(?<=\d)(?=[A-KM-UX-Z](?![^\W_])| M(?![^\W_]))")  # 12B and 2M; 5V and 2L have units
_DRESS = re.compile(r"(?<![\d*_`])[*_`]+|[*_`]+(?![\d*_`])")  # Markdown's, but not 3*4 and 1_000
_BULLET = re.compile(r"(?m)^[ ]*[-—+•][ ]+")
_SAID_MINUS = re.compile(rf"(?<![\w.-])(?<!\d )(?:minus|negative) +(?={_MONEY}?\.?\d)")
_SHORTENED = re.compile(  # a blank was left out behind it
    r"(?<![\w.])(?:(?:rs|nos?|nr|num|ca|approx|ans|fig|eq)\.|(?:rs|usd|eur|gbp|inr|chf|jpy|cny)\.?)(?=\d)"
)
_LOOSE = re.compile(r"(?<=[(\[{]) +| +(?=[)\]}])")
_TUPLE = re.compile(r"(?<=[(\[{])[-+]?\d+(?:[./]\d+)?(?:,[-+]?\d+(?:[./]\d+)?)+(?=[)\]}])")
_COMMA_BETWEEN = re.compile(r"(?<=[^\s\d,]),(?=[^\s,])|,(?=[^\s\d,])")
_LIST = re.compile(r"(?<![\d.])\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)+")

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_BLANKED = r"(?<!\d[ ])[1-9]\d{0,2}(?:[ ]\d{3})+(?![ ]?\d)(?:[.,]\d+)?"
_NUMBER = re.compile(
    rf"""(?P<sign>[-—+][ ]*)? (?P<money>{_MONEY}[ ]?)? (?P<inner>[-+][ ]?(?={_MONEY}?[ ]?[.\d]))?
    (?: (?:(?P<whole>(?<!\d)\d{{1,3}})[ ])? (?P<over>(?<![\d.])\d+)[ ]?/[ ]?(?P<under>\d+)
      | (?P<body>{_BLANKED} | \d+(?:[.,'_]\d+)* | \.\d+)
        (?: e(?P<e>[-+]?\d+) | [ ]?[x\u00d7·*][ ]?10(?:\^|\*\*)(?P<ten>[-+]?\d+) | (?P<power>\^[-+]?\d+) )? )
    (?:[ ]?(?P<scale>{"|".join(_SCALES)})\b)?
    (?:[ ]?°(?![ ]?[cf]\b))?
    (?P<percent>[ ]?(?:%|per[ ]?cent\b|pct\b))?
    (?:[ ]?{_MONEY}(?![ ]?[-+]?\.?\d))?""",
    re.VERBOSE,
)
_TOKEN = re.compile(rf"{OPEN}({OPERAND}?)([^{CLOSE}%]+)(%?){CLOSE}")
_PLAIN = re.compile(r"\d+|\d*\.\d+")
_BY_THOUSAND = r"[1-9]\d{0,2}(?:([ ,'_])\d{3})(?:\1\d{3})*"
_THOUSANDS = re.compile(rf"(?:{_BY_THOUSAND}|[1-9]\d?(?:,\d\d)+,\d{{3}})(?:\.\d+)?")
_STOPS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}")
_COMMA = re.compile(rf"(?:\d+|{_BY_THOUSAND}|[1-9]\d{{0,2}}(?:\.\d{{3}})+),\d+")
_MANY = "bn|mn|mio|mln|mrd|tn|lakhs?|crores?|dozens?|(?:hundred|thousand|million|billion|trillion)s"
_BEHIND = re.compile(
    rf"""\^ | [-—]{_MONEY}?\d | [.,:/'_°]\d | [^\W\d_]+\d | (?:st|nd|rd|th|k)\b | {GLUED}
       | -[^\W\d_]{{2,}} | '[ds]\b | (?:ish|odd|fold|plus|some|something)\b
       | [ ]?(?:{_MANY})\b | [ ]?[十百千万萬億亿兆] | [만억]
       | (?![gmshldvw]\b)[a-z]\b | (?:ab|bc|ac|abc|[pqr]{{2,3}}|[u-z]{{2,3}})\b | [ ]?[xyz]\b(?![ ]?\d)
       | [ ]?(?:[√∛∜π]|pi\b|{NAMED}) | [.]?(?:[{HIDDEN}]|\\[a-z]+\()
       | [ ]?/[ ]?(?:\(|{VARIABLE}|[{HIDDEN}√]) | \)[ ]?[\^/!×·÷]
       | \(\w\) | \([^()]*[-+*/^×÷\d{HIDDEN}][^()]*\)
    """,  # noqa: RUF001 - people type it
    re.VERBOSE,
)
_ONWARD = re.compile(rf"[ ]?[-+*×·÷][ ]?(?:(?:\d[\d.]*)?(?:{VARIABLE}|[({HIDDEN}√∛∜])|\d+(?:i\b|\^[a-z(]))")  # noqa: RUF001
_TIMES = re.compile(r"[\d)][ ]?(?:[*×·÷x]|\*\*)[ ]?$")  # noqa: RUF001 - people type it
_TERM = re.compile(rf"(?:[\d)\]%!°{HIDDEN}]{_MONEY}?|(?<![^\W\d_])[b-hj-z]|π|\\[a-z]+)$")
_WITHIN = re.compile(  # an exponent, a root, a quotient's lower part, a factor in brackets, a torn command
    rf"""(?: [\^√∛∜{HIDDEN}] | (?:[\w{HIDDEN}π)\]}}]|[ ])/[ ]?\(?[-+]?
           | [-*/×·÷^√\d)]\( | \\[a-z]+[({{] )$""",  # noqa: RUF001 - people type it
    re.VERBOSE,
)
_COPULA = re.compile(r"\b(?:is|are|was|were|be|equals|of|to)$")


def marked(text: str) -> str:
    """Return the text with every number as its value between marks, in lower case, NFKC."""
    told = _plain_text(text)
    if sum(1 for line in told.splitlines() if line.strip()) > 1:
        told = _BULLET.sub("", told)
    told = _LIST.sub(_spread, _TUPLE.sub(_tuple, _LOOSE.sub("", told)))
    return revealed(_NUMBER.sub(_mark, _COMMA_BETWEEN.sub(", ", told))).replace(GLUED, "")


def pattern(wanted: str, *, operands: bool = False) -> str:
    """Return a regular expression for a marked text that finds its numbers in all their forms.

    A percentage is right as such ("50%"), without its sign ("50": GSM8K and MATH write so), and as a
    share ("0.5"); two percentages, or two plain numbers, are compared as they stand.

    Args:
        wanted: what :func:`marked` returned.
        operands: whether a number inside a calculation will do.
    """
    made, at = "", 0
    for found in _TOKEN.finditer(wanted):
        forms = "|".join(map(re.escape, _forms(Fraction(found[2]), percent=bool(found[3]))))
        inside = OPERAND if found[1] else f"{OPERAND}?" if operands else ""
        made += re.escape(wanted[at : found.start()]) + f"{OPEN}{inside}(?:{forms}){CLOSE}"
        at = found.end()
    return made + re.escape(wanted[at:])


def last_number(text: str) -> str:
    """Return the last number of a marked text with its marks; an empty text if there is none."""
    found = [match.group() for match in _TOKEN.finditer(text)]
    return found[-1] if found else ""


def _forms(value: Fraction, *, percent: bool) -> list[str]:
    if percent:
        return [f"{value}%", f"{value}", f"{value / 100}"]
    return [f"{value}", f"{value}%", f"{value * 100}%"]


def _plain_text(text: str) -> str:
    told = _VULGAR.sub(" ", _LOWERED.sub(r"_\g<0>", _RAISED.sub(r"^\g<0>", text.replace("\t", "\v"))))
    told = unicodedata.normalize("NFKC", told).translate(_SIGNS)
    told = _LETTERED.sub(GLUED, told).casefold()
    told = "".join(c if c.isascii() else _character(c) for c in told)
    told = _STARRED.sub("\u00d7", plain(told))
    told = re.sub(r"-{2,}", "—", _DRESS.sub("", told))
    told = re.sub(r"(?<=\d) minus (?=\d)", " - ", told)
    return _SAID_MINUS.sub("-", _SHORTENED.sub(r"\g<0> ", told))


def _character(letter: str) -> str:
    """Return digits of every script as ours, and nothing for what cannot be seen (direction marks)."""
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    return "" if unicodedata.category(letter) == "Cf" else letter


def _spread(match: re.Match[str]) -> str:
    """Write a list without blanks ("1,2,3") with them."""
    return match[0] if _value(match[0]) is not None else match[0].replace(",", ", ")


def _tuple(match: re.Match[str]) -> str:
    """Write what stands in brackets ("(1,2)") with blanks, but for thousands."""
    return match[0] if _THOUSANDS.fullmatch(match[0].lstrip("+-")) else match[0].replace(",", ", ")


def _mark(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - NEAR) : match.start()]
    value = _read(match)
    sign = (match["sign"] or "").strip()
    place = _place(before, sign, blank=" " in (match["sign"] or ""), money=bool(match["money"]))
    if value is None or place is None or _BEHIND.match(match.string, match.end()):
        return match[0]
    kept, negative, operand = place
    operand = operand or _ONWARD.match(match.string, match.end()) is not None
    if (match["inner"] or "").strip() == "-":
        negative = not negative
    inside = f"{OPERAND if operand else ''}{-value if negative else value}"
    return f"{kept}{OPEN}{inside}{'%' if match['percent'] else ''}{CLOSE}"


def _read(match: re.Match[str]) -> Fraction | None:
    """Return the number without its sign, or none where the digits are no number."""
    if len(match[0]) > MOST_DIGITS:
        return None
    if match["over"]:
        over, under = int(match["over"]), int(match["under"])
        mixed = match["whole"] is not None
        if under == 0 or (mixed and over >= under):
            return None
        value: Fraction | None = Fraction(over, under) + int(match["whole"] or 0)
    else:
        value = _value(match["body"])
    if match["power"] and value != 10:
        return None
    exponent = int(match["e"] or match["ten"] or 0) + _SCALES.get(match["scale"], 0)
    exponent += int(match["power"][1:]) - 1 if match["power"] else 0
    return None if value is None or abs(exponent) > MOST_DIGITS else value * Fraction(10) ** exponent


def _value(body: str) -> Fraction | None:
    """Return what digits with separators stand for, or none."""
    if len(body) > MOST_DIGITS:
        return None
    if _PLAIN.fullmatch(body):
        return Fraction(body)
    if _THOUSANDS.fullmatch(body):
        return Fraction(re.sub(r"[ ,'_]", "", body))
    if _STOPS.fullmatch(body):
        return Fraction(body.replace(".", ""))
    if _COMMA.fullmatch(body):
        whole, _, part = body.rpartition(",")
        return Fraction(f"{re.sub(r'[^0-9]', '', whole)}.{part}")
    return None


def _place(before: str, sign: str, *, blank: bool, money: bool) -> tuple[str, bool, bool] | None:
    """Say what the sign and the text in front of it make of a number.

    Returns:
        What stands in front of the number and is no part of it, whether it is negative, whether it is
        part of a calculation; none where it belongs to something larger.
    """
    glued = before[-1:]
    if _WITHIN.search(before):
        return None
    if not sign:
        joined = re.search(r"\d[.,:'_-]$|[_±°]$", before) or glued.isdecimal()
        if joined or (_cased(glued) and not money):
            return None
        return "", False, bool(_TIMES.search(before))
    if glued in {"-", "+", "±", "—"}:
        return None
    return _signed(before, sign, blank=blank)


def _signed(before: str, sign: str, *, blank: bool) -> tuple[str, bool, bool] | None:
    glued, word, negative = before[-1:], before.rstrip(), sign != "+"
    range_or_date = negative and not blank and not glued.isspace()
    if range_or_date and re.search(rf"[\d)\]%]{_MONEY}?$", word):
        return None
    if _cased(glued) and not blank and sign != "—":
        return None
    copula = _COPULA.search(word)
    option = not blank and re.search(r"\(\w\)$", word)  # "(B) -5"
    if _TERM.search(word) and not copula and not option:
        return f"{sign} ", False, True
    dash = _cased(glued) or (blank and _cased(word[-1:]) and not copula)
    return (f"{sign} ", False, False) if dash else ("", negative, False)


def _cased(letter: str) -> bool:
    """Tell whether a letter makes an id of digits behind it; scripts without case write no blanks."""
    return letter.isalpha() and letter.upper() != letter
