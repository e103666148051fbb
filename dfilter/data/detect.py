"""Which shape rows have, found from the first of them or named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dfilter.data.rejects import RowError
from dfilter.data.shapes import COMMON, FIELDS, OPTIONAL, Read, Row, Shape, dig
from dfilter.errors import InputError, SettingsError, UnknownNameError

# The names that say most; with them, others beside them are not in question.
PLAIN = frozenset(
    {
        *(("messages", "messages"), ("conversations", "conversations"), ("preference", "chosen")),
        *(("alpaca", name) for name in ("instruction", "output")),
        *(("prompt-response", name) for name in ("prompt", "response", "completion", "answer")),
    }
)
# Rows of other projects that hold no prompt and answer as they stand, and what is to be done with them.
FOREIGN = (
    (
        {"message_id", "parent_id", "text"},
        "Each row is one message of a tree. Give the file of whole trees (*.trees.jsonl.gz) instead.",
    ),
    ({"input_ids"}, "The rows are token ids. Give the texts that they were made of."),
    (
        {"segments"},
        "The rows are segments to learn or not. Give prompt and answer as messages, or as two columns.",
    ),
    ({"instruction", "instances"}, "Each row holds several instances. Write one row for each of them."),
    ({"mapping"}, "The rows are exported chats as trees of nodes. Write each one's path as messages."),
    ({"text"}, "The rows are plain text, in which prompt and answer are not told apart. Give two columns."),
)


def detect(rows: Sequence[Row], name: str = "auto", mapping: Mapping[str, str] | None = None) -> Shape:
    """Return the shape that fits most of the given rows.

    Raises:
        SettingsError: the shape or a mapped field has no such name.
        InputError: no shape fits; the sentence lists the columns that were found.
    """
    mapping = dict(mapping or {})
    ranked = []
    for candidate in _candidates(name, mapping):
        read = candidate.reader()
        present = [row for row in rows if _may_have(candidate, row)]
        readable = sum(1 for row in present if _reads(read, row))
        is_plain = all((candidate.name, column) in PLAIN for column in candidate.needed())
        ranked.append(((readable, len(present), is_plain), candidate))
    best, shape = max(ranked, key=lambda pair: pair[0])
    if not best[1] and name == "auto":
        raise InputError(_no_shape(rows, mapping))
    if best[0] and not best[2]:
        _refuse_several(shape, [other for fit, other in ranked if fit == best and other.name == shape.name])
    return _settled(shape, rows)


def _may_have(shape: Shape, row: Row) -> bool:
    """Return whether a row has what the shape needs; a tree's column holds other shapes' prompts as texts."""
    values = [dig(row, column) for column in shape.needed()]
    return all(value is not None and (shape.name != "tree" or isinstance(value, Mapping)) for value in values)


def _no_shape(rows: Sequence[Row], mapping: Mapping[str, str]) -> str:
    """Return the sentence for rows that no shape fits."""
    columns = {str(column) for row in rows for column in row}
    found = ", ".join(sorted(columns)) or "none"
    absent = [f for f, column in mapping.items() if all(dig(row, column) is None for row in rows)]
    if absent:
        wished = ", ".join(f"{field}={mapping[field]}" for field in absent)
        return f"No row has the column of --map {wished}; the columns are: {found}."
    known = next((told for names, told in FOREIGN if names <= columns), "")
    if known:
        return f"{known} The columns are: {found}."
    return (
        f"The rows have no shape that dfilter knows; their columns are: {found}. Expected "
        "instruction/input/output, messages, conversations, or prompt with response, completion or "
        "answer. Name the columns, for instance --map prompt=question --map response=answer."
    )


def _refuse_several(shape: Shape, fitting: Sequence[Shape]) -> None:
    """Refuse to choose between columns that could be meant alike."""
    for field in shape.columns:
        names = list(dict.fromkeys(other.columns[field] for other in fitting))
        if len(names) > 1 and field not in COMMON:
            raise InputError(
                f"Several columns could be the rows' {field}: {', '.join(names)}. Choose one, for instance "
                f"--map {field}={names[-1]}."
            )


def _settled(shape: Shape, rows: Sequence[Row]) -> Shape:
    """Return the shape with those names of fields that rows may lack which some row has."""
    columns = dict(shape.columns)
    for field, names in {**COMMON, **FIELDS[shape.name]}.items():
        if field not in shape.mapped and (field in COMMON or field in OPTIONAL):
            met = (n for n in names if any(dig(row, n) is not None for row in rows))
            columns[field] = next(met, names[0])
    return Shape(shape.name, columns, shape.mapped)


def _candidates(name: str, mapping: dict[str, str]) -> list[Shape]:
    if name != "auto" and name not in FIELDS:
        raise UnknownNameError("row format", name, [*FIELDS, "auto"])
    names = list(FIELDS) if name == "auto" else [name]
    known = {field for shape in names for field in FIELDS[shape]} | set(COMMON)
    if unknown := [field for field in mapping if field not in known]:
        raise SettingsError(*(str(UnknownNameError("field to map", f, known)) for f in unknown))
    shapes = []
    for shape in names:
        fields = {**COMMON, **FIELDS[shape]}
        if all(field in fields for field in mapping):
            columns: list[dict[str, str]] = [{}]
            for field, defaults in fields.items():
                first = defaults[:1] if field in COMMON or field in OPTIONAL else defaults
                choices = (mapping[field],) if field in mapping else first
                columns = [{**chosen, field: column} for chosen in columns for column in choices]
            shapes += [Shape(shape, chosen, frozenset(mapping)) for chosen in columns]
    if not shapes:
        raise SettingsError(
            f"The mapped fields {', '.join(mapping)} belong to different row formats. The formats' fields: "
            + "; ".join(f"{shape}: {', '.join(fields)}" for shape, fields in FIELDS.items())
            + "."
        )
    return shapes


def _reads(read: Read, row: Row) -> bool:
    try:
        read(row)
    except RowError:
        return False
    return True
