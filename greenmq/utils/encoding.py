"""Text and bytes: conversions that leave other types alone, and texts that never fail to be made.

Nothing here switches.

Source: kombu.utils.encoding.
"""

from __future__ import annotations

import sys
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import IO, Any

#: The encodings in which text may travel. Python knows more codecs, and a sender must not choose among them:
#: `punycode` and `idna` take time by the square of the length, others are no encodings at all.
TEXT_ENCODINGS = frozenset(
    (
        'ascii', 'utf_8', 'utf_8_sig', 'utf_16', 'utf_16_be', 'utf_16_le', 'utf_32', 'utf_32_be', 'utf_32_le',
        'latin_1', 'koi8_r', 'koi8_u', 'mac_cyrillic', 'mac_roman', 'tis_620',
        *(f'iso8859_{part}' for part in range(1, 17) if part != 12),
        *(f'cp{page}' for page in (437, 850, 852, 855, 858, 866, 874, *range(1250, 1259))),
        'big5', 'cp932', 'cp949', 'cp950', 'euc_jp', 'euc_kr', 'gb18030', 'gb2312', 'gbk', 'shift_jis',
    )
)  # fmt: skip

_text_encodings = {name: name for name in TEXT_ENCODINGS}
_text_encodings.update((name, codec) for name, codec in aliases.items() if codec in TEXT_ENCODINGS)

#: A file whose encoding `default_encoding` reports; None means the file system's.
default_encoding_file: IO[str] | None = None


def set_default_encoding_file(file: IO[str] | None) -> None:
    """Take the default encoding from this file from now on.

    Source: kombu.utils.encoding.set_default_encoding_file.
    """
    global default_encoding_file
    default_encoding_file = file


def get_default_encoding_file() -> IO[str] | None:
    """Return the file that `default_encoding` asks, if one was set."""
    return default_encoding_file


def default_encoding(file: IO[str] | None = None) -> str:
    """Return the encoding of the file, or of the file system when there is none."""
    file = file or default_encoding_file
    return getattr(file, 'encoding', None) or sys.getfilesystemencoding()


def text_encoding(name: Any) -> str:
    """Return the codec of an encoding that text may travel in, by any name that it has.

    Raises:
        LookupError: it is none of `TEXT_ENCODINGS`.
    """
    found = None
    if isinstance(name, str) and len(name) < 40:
        # Python's own look-up is not asked: it tries to import what it does not know, and remembers each.
        found = _text_encodings.get(normalize_encoding(name).lower())
    if found is None:
        raise LookupError(f'text does not travel as {str(name)[:40]!r}')
    return found


def str_to_bytes(s: Any) -> Any:
    """Encode text as UTF-8; anything else comes back as it is.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate.
    """
    return s.encode() if isinstance(s, str) else s


def ensure_bytes(s: Any) -> Any:
    """Encode text as UTF-8; anything else comes back as it is (same as `str_to_bytes`)."""
    return s.encode() if isinstance(s, str) else s


def bytes_to_str(s: Any) -> Any:
    """Decode bytes from UTF-8, a wrong byte becoming U+FFFD; anything else comes back as it is."""
    return s.decode('utf-8', 'replace') if isinstance(s, bytes) else s


def from_utf8(s: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the argument: text needs no conversion on Python 3. Kept for programs that call it."""
    return s


def default_encode(obj: Any) -> Any:
    """Return the argument: text needs no conversion on Python 3. Kept for programs that call it."""
    return obj


def safe_str(s: Any, errors: str = 'replace') -> str:
    """Return the text of any object, also of bytes that are not UTF-8; never raises an `Exception`."""
    if isinstance(s, str):
        return s
    if isinstance(s, bytes):
        return s.decode('utf-8', errors)
    return safe_repr(s, errors)


def safe_repr(o: Any, errors: str = 'replace') -> str:
    """Return `repr(o)`, or a text that names type and error when the object's own `repr` fails."""
    try:
        return repr(o)
    except Exception as exc:  # the object's own code
        return f'<Unrepresentable {type(o)!r}: {type(exc).__name__}: {_text_of(exc)}>'


def _text_of(exc: Exception) -> str:
    # An object hostile enough to fail in repr() may raise an error that does the same.
    try:
        return str(exc)
    except Exception:  # the object's own code
        return '(no text)'
