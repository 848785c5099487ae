"""Nearest names, escaped patterns, versions, texts of strangers.

Nothing here switches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenmq import version_info_t

_VERSION = re.compile(r'(\d+)(?:\.(\d+))?(?:\.(\d+))?\.?([^-.]*)[-.]?(.*)')


def escape_regex(p: str, white: str = '') -> str:
    """Put a backslash before every character that is not alphanumeric nor in `white`.

    Source: kombu.utils.text.escape_regex.
    """
    return ''.join(c if c.isalnum() or c in white else ('\\000' if c == '\000' else '\\' + c) for c in p)


def fmatch_iter(needle: str, haystack: Iterable[str], min_ratio: float = 0.6) -> Iterator[tuple[float, str]]:
    """Yield (likeness from 0 to 1, name) of each name at least `min_ratio` like the needle.

    Source: kombu.utils.text.fmatch_iter.
    """
    from difflib import SequenceMatcher  # slow to import, and hardly ever needed

    for name in haystack:
        ratio = SequenceMatcher(None, needle, name).ratio()
        if ratio >= min_ratio:
            yield ratio, name


def fmatch_best(needle: str, haystack: Iterable[str], min_ratio: float = 0.6) -> str | None:
    """Return the name most like the needle, or None if none is like enough.

    Source: kombu.utils.text.fmatch_best.
    """
    return max(fmatch_iter(needle, haystack, min_ratio), default=(0.0, None))[1]


def printable(text: object, most: int = 1000) -> str:
    """Make what a broker or a sender wrote fit for a log or a terminal: one line that moves no cursor.

    Control characters, line ends, marks that turn the direction of writing and lone surrogates come out as
    Python writes them (`\\x1b`, `\\n`, `\\u202e`).

    Arguments:
        text (object): a str; bytes are read as UTF-8, with escapes for what is none; else its `str()`.
        most (int): characters (of bytes: bytes) to keep; the text says how long it was.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        text = str(text)
    part = text[:most]  # cut first: a text of megabytes must not be looked through
    shown = part if isinstance(part, str) else part.decode('utf-8', 'backslashreplace')
    if not shown.isprintable():
        shown = ''.join(each if each.isprintable() else repr(each)[1:-1] for each in shown)
    return shown if len(text) <= most else f'{shown}… ({len(text)} long)'


def version_string_as_tuple(s: str) -> version_info_t:
    """Take a version apart: `'4.0.0rc1'` → major 4, minor 0, micro 0, releaselevel 'rc1', serial ''.

    Raises:
        ValueError: it does not begin with a number.
    Source: kombu.utils.text.version_string_as_tuple.
    """
    from greenmq import version_info_t

    found = _VERSION.fullmatch(s)
    if found is None:
        raise ValueError(f'not a version: {s!r}')
    major, minor, micro, releaselevel, serial = found.groups()
    return version_info_t(int(major), int(minor or 0), int(micro or 0), releaselevel, serial)
