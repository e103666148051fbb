"""Text from outside is data, wherever it came from: it may name a folder, and nothing more."""

from __future__ import annotations

import hashlib
import unicodedata

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def safe_name(text: str, most: int = 60) -> str:
    """Return a name for a file or folder: letters, digits and ``._-``, not beginning with ``.`` or ``-``.

    A name that is so already stays as it is. Where something had to be replaced or cut, eight hex
    digits of a hash of the whole text keep different names apart.

    Args:
        text: any text, the empty one too.
        most: bytes of UTF-8, which is what file systems count; at least 20.
    """
    name = "".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    name = name.lstrip(".-").rstrip(".")
    device = name.partition(".")[0].casefold() in DEVICES
    if name and name == text and len(name.encode()) <= most and not device:
        return name
    mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    room = name.encode()[: most - len(mark) - 1].decode("utf-8", "ignore").rstrip(".-")
    return f"{room or 'unnamed'}-{mark}"
