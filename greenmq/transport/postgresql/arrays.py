"""Arrays as parameters, in PostgreSQL's binary form: a batch of messages, or of their numbers, as it is.

psycopg writes lists as text: it looks at each character of each message for what is to be escaped, and spends
a microsecond on each number.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import adapt, pq

__all__ = ('ADAPTERS', 'Numbers', 'Texts')

#: What PostgreSQL calls the types text, text[], bigint and bigint[].
_TEXT, _TEXTS, _BIGINT, _BIGINTS = 25, 1009, 20, 1016

#: Dimensions, whether a NULL is among them, the type of each; of the one dimension its size and first index.
_HEAD = struct.Struct('!iiIii')
_SIZE = struct.Struct('!i')
_NULL = _SIZE.pack(-1)


class Texts:
    """Some texts, for a parameter of type text[]; None is NULL."""

    __slots__ = ('texts',)

    def __init__(self, texts: Sequence[str | None]) -> None:
        self.texts = texts


class Numbers:
    """Some numbers, for a parameter of type bigint[]."""

    __slots__ = ('numbers',)

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers


class _TextsDumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Any) -> bytes:
        texts = obj.texts
        parts = [_HEAD.pack(1, None in texts, _TEXT, len(texts), 1)]
        for text in texts:
            if text is None:
                parts.append(_NULL)
            else:
                data = text.encode()
                parts.append(_SIZE.pack(len(data)))
                parts.append(data)
        return b''.join(parts)


class _NumbersDumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _BIGINTS

    def dump(self, obj: Any) -> bytes:
        numbers = obj.numbers
        count = len(numbers)
        # The size of each stands before it.
        sized = [8] * (2 * count)
        sized[1::2] = numbers
        return _HEAD.pack(1, 0, _BIGINT, count, 1) + struct.pack('!' + 'iq' * count, *sized)


#: How values are written and read: psycopg's ways, and these. Texts are UTF-8 on every connection.
ADAPTERS = adapt.AdaptersMap(psycopg.adapters)
ADAPTERS.register_dumper(Texts, _TextsDumper)
ADAPTERS.register_dumper(Numbers, _NumbersDumper)
