"""Bytes to text without a guess that loses characters: strict decoding, and a reason where it fails."""

from __future__ import annotations

import codecs
import io
import re
from typing import BinaryIO

_SNIFFED = 1 << 16
_SAMPLE = 1 << 18
_CHUNK = 1 << 20
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BROKEN = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that is not UTF-8


def unicode_encoding(handle: BinaryIO) -> str | None:
    """Name the Unicode encoding of a file; None for another code page or binary data.

    UTF-8 with damage is still UTF-8 as long as more of its non-ASCII bytes are in whole characters than not.
    """
    head = handle.read(_SNIFFED)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    return _utf16_without_mark(head) or ("utf-8-sig" if _is_utf8(handle) else None)


def decode(raw: bytes) -> str | None:
    """Decode a whole file strictly: Unicode, else the best guess of charset-normalizer that fits all of it.

    Returns:
        The text; None for binary data and for what fits no known encoding.

    Raises:
        UnicodeError: The file is Unicode, but damaged.
    """
    encoding = unicode_encoding(io.BytesIO(raw))
    if b"\x00" in raw[:_SNIFFED] and encoding in {None, "utf-8-sig"}:
        return None
    return _decode_legacy(raw) if encoding is None else raw.decode(encoding)


def clean(text: str) -> str:
    """Drop NULs and lone surrogates, which no tokenizer or file wants, and make line ends uniform."""
    text = text.replace("\x00", "").replace("\r\n", "\n").replace("\r", "\n")
    return text.encode("utf-8", "ignore").decode("utf-8")


def _utf16_without_mark(head: bytes) -> str | None:
    """Recognise UTF-16 by its zero bytes: in Western text nearly all high bytes are zero and no low byte is."""
    pairs = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 0.3 * pairs and even <= 0.01 * pairs:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 * pairs and odd <= 0.01 * pairs else None


def _is_utf8(handle: BinaryIO) -> bool:
    """Read a file to its end, in chunks, and weigh the bytes in whole multi-byte characters against the others."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    whole = broken = 0
    handle.seek(0)
    for chunk in iter(lambda: handle.read(_CHUNK), b""):
        text = decoder.decode(chunk)
        whole += len(chunk) - len(text)
        broken += 0 if text.isascii() else len(BROKEN.findall(text))
    broken += len(decoder.decode(b"", final=True))
    return broken == 0 or whole > broken


def legacy_encodings(handle: BinaryIO) -> list[str]:
    """Guess the code page of a file that is not Unicode, best guess first; empty for what fits none."""
    from charset_normalizer import from_bytes

    first = _first_bad_byte(handle)
    # A sample without the first telling byte would be taken for ASCII.
    start = 0 if first < _SAMPLE else first - _SAMPLE // 2
    handle.seek(start)
    sample = handle.read(_SAMPLE)
    if start:
        sample = sample[sample.find(b"\n", 0, _SAMPLE // 2) + 1 :]
    return [guess.encoding for guess in from_bytes(sample)]


def _first_bad_byte(handle: BinaryIO) -> int:
    """Where a file stops being UTF-8; its length where it never does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    handle.seek(0)
    read = 0
    for chunk in iter(lambda: handle.read(_CHUNK), b""):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            return read - pending + error.start
        read += len(chunk)
    return read


def _decode_legacy(raw: bytes) -> str | None:
    for encoding in legacy_encodings(io.BytesIO(raw)):
        try:
            return raw.decode(encoding)
        except UnicodeError:
            continue
    return None
