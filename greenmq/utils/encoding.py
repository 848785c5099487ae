"""Text and bytes: conversions that leave other types alone, and texts that never fail to be made.

Nothing here switches.

Source: kombu.utils.encoding.
"""

from __future__ import annotations

import sys
from typing import IO, Any

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
