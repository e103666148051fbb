"""Records out of a damaged SQLite file, page by page, whatever its trees say.

The format is described at https://www.sqlite.org/fileformat2.html: a leaf page of a table holds cells of
payload size, row id and record, wherever in the file it stands; what does not fit follows in a chain of
overflow pages. Nothing here is believed: whoever uses a record has its digest to look at.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Generator, Iterator, Mapping
from typing import Any, TypeAlias

Record: TypeAlias = tuple[int, tuple[Any, ...]]  # its row id and its columns

USUAL = 4096  # bytes of a page, where the file's own word is damaged
MAGIC = b"SQLite format 3\x00"
LEAF, INDEX_LEAF = 0x0D, 0x0A
OTHERS = frozenset({0x02, 0x05, 0x0A})  # inner pages and those of indexes
INTEGERS = (0, 1, 2, 3, 4, 6, 8)  # bytes by serial type
WAL_HEADER, FRAME_HEADER = 32, 24
SCRAPS = 64  # bytes that a sound page may hold beside its cells
MOST_COLUMNS = 64
MOST_BYTES = 1 << 26  # of one record


class Pages:
    """The pages of a database, or of a database with those of its write-ahead log in their place."""

    def __init__(self, data: bytes | mmap.mmap, log: bytes = b"") -> None:
        told = int.from_bytes(data[16:18], "big")
        told = 65536 if told == 1 else told
        whole = data[: len(MAGIC)] == MAGIC and 512 <= told <= 65536 and not told & (told - 1)
        self.size = told if whole else USUAL
        self.data = data
        self.count = -(-len(data) // self.size)
        self.newer = self._logged(log)
        self.used: set[int] = set()  # overflow pages of records that were read

    def _logged(self, log: bytes) -> Mapping[int, bytes]:
        """Return the last version of each page in the log of today's writers."""
        found = {}
        step = FRAME_HEADER + self.size
        for at in range(WAL_HEADER, len(log) - step + 1, step):
            if log[at + 8 : at + 16] == log[16:24]:  # salts: frames of an older log stay behind it
                found[int.from_bytes(log[at : at + 4], "big")] = log[at + FRAME_HEADER : at + step]
        return found

    def page(self, number: int) -> bytes:
        """Return a page; those of a file start with 1."""
        if number in self.newer:
            return self.newer[number]
        return self.data[(number - 1) * self.size : number * self.size]

    def records(self) -> Iterator[Record]:
        """Yield every record of a table that can be read, of sound pages first, some perhaps twice."""
        unsound = []
        numbers = sorted({*range(1, self.count + 1), *self.newer})
        for number in numbers:
            page = self.page(number)
            start = 100 if number == 1 else 0
            kind = page[start] if len(page) > start else 0
            sound = kind in OTHERS
            if kind == LEAF:
                sound = yield from self._pointed(page, start)
            elif kind == 0x05:
                sound = self._is_inner(page, start)
            if not sound:
                unsound.append(number)
        for number in unsound:
            if number not in self.used:
                yield from self._anywhere(self.page(number))

    def _pointed(self, page: bytes, start: int) -> Generator[Record, None, bool]:
        """Yield the records that a leaf points to; returns whether these are all that it holds."""
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        sound = len(page) == self.size and start + 8 + 2 * count <= self.size
        head = min(start + 8 + 2 * count, len(page))
        rest = bytearray(head) + page[head:]
        for index in range(min(count, self.size // 4)):
            at = start + 8 + 2 * index
            place = int.from_bytes(page[at : at + 2], "big")
            found = self._cell(page, place)
            if found is None:
                sound = False
            else:
                record, end = found
                rest[place:end] = bytes(end - place)
                yield record
        return sound and len(rest) - rest.count(0) < SCRAPS

    def _is_inner(self, page: bytes, start: int) -> bool:
        """Return whether a page that says so is an inner one: all that it points to are pages."""
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        places = [
            int.from_bytes(page[at : at + 2], "big") for at in range(start + 12, start + 12 + 2 * count, 2)
        ]
        below = [start + 8, *places]
        return all(
            0 < int.from_bytes(page[at : at + 4], "big") <= self.count + len(self.newer) for at in below
        )

    def _anywhere(self, page: bytes) -> Iterator[Record]:
        """Yield what looks like a record, wherever in a page it stands."""
        for at in range(len(page) - 4):
            if page[at] and (found := self._cell(page, at)) is not None:
                yield found[0]

    def _cell(self, page: bytes, at: int) -> tuple[Record, int] | None:
        """Return the record of a table's cell and where it ends in its page, or None where there is none."""
        try:
            size, at = varint(page, at)
            row, at = varint(page, at)
            if not 2 <= size <= MOST_BYTES or not 1 < page[at] <= MOST_COLUMNS * 2:
                return None
            payload, end, chain = self._payload(page, at, size)
            columns = decoded(payload)
        except (IndexError, ValueError, struct.error):
            return None
        self.used.update(chain)
        return (row, columns), end

    def _payload(self, page: bytes, at: int, size: int) -> tuple[bytes, int, list[int]]:
        """Return a cell's payload, where it ends in its page, and the overflow pages that it goes on in."""
        most = self.size - 35
        chain: list[int] = []
        if size <= most:
            if at + size > len(page):
                raise ValueError("it does not fit into its page")
            return page[at : at + size], at + size, chain
        least = (self.size - 12) * 32 // 255 - 23
        here = least + (size - least) % (self.size - 4)
        here = here if here <= most else least
        parts, got = [page[at : at + here]], here
        following = int.from_bytes(page[at + here : at + here + 4], "big")
        while got < size:
            more = self.page(following) if following else b""
            if following in chain or len(more) < min(self.size, size - got + 4):
                raise ValueError("its overflow chain is broken")
            chain.append(following)
            parts.append(more[4 : 4 + size - got])
            got += len(parts[-1])
            following = int.from_bytes(more[:4], "big")
        return b"".join(parts), at + here + 4, chain


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return SQLite's integer of variable length, and where it ends."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9


def decoded(payload: bytes) -> tuple[Any, ...]:
    """Return the columns of a record.

    Raises:
        ValueError, IndexError: it is none.
    """
    end, at = varint(payload, 0)
    types = []
    while at < end:
        serial, at = varint(payload, at)
        types.append(serial)
    if at != end or len(types) > MOST_COLUMNS:
        raise ValueError("its head is none")
    columns: list[Any] = []
    for serial in types:
        size = INTEGERS[serial] if 0 <= serial <= 6 else 8 if serial == 7 else max(0, serial - 12) // 2
        part = payload[at : at + size]
        if len(part) < size:
            raise ValueError("it is cut")
        at += size
        columns.append(_value(serial, part))
    if at != len(payload):
        raise ValueError("it is longer than its head says")
    return tuple(columns)


def _value(serial: int, part: bytes) -> Any:
    if serial == 0:
        return None
    if serial <= 6:
        return int.from_bytes(part, "big", signed=True)
    if serial == 7:
        return struct.unpack(">d", part)[0]
    if serial in {8, 9}:
        return serial - 8
    if serial < 12:
        raise ValueError("SQLite has no such type")
    return part if serial % 2 == 0 else part.decode("utf-8", "replace")
