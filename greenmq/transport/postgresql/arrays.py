"""Arrays of texts as a parameter, in PostgreSQL's binary form: a batch of messages is written as it is.

psycopg writes lists as text, and looks at each character of each message for what is to be escaped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import adapt, pq

__all__ = ('ADAPTERS', 'Texts')

_TEXT, _TEXTS = 25, 1009  # what PostgreSQL calls the types text and text[]

_HEAD = struct.Struct('!iiIii')
_SIZE = struct.Struct('!i')
_NULL = _SIZE.pack(-1)


class Texts:
    """Some texts, for a parameter of type text[]; None is NULL."""

    __slots__ = ('texts',)

    def __init__(self, texts: Sequence[str | None]) -> None:
        self.texts = texts


class _Dumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Any) -> bytes:
        texts = obj.texts
        # Dimensions, whether a NULL is among them, the type of each; of the one dimension its size and first
        # index.
        parts = [_HEAD.pack(1, None in texts, _TEXT, len(texts), 1)]
        for text in texts:
            if text is None:
                parts.append(_NULL)
            else:
                data = text.encode()
                parts.append(_SIZE.pack(len(data)))
                parts.append(data)
        return b''.join(parts)


#: How values are written and read: psycopg's ways, and this one. Texts are UTF-8 on every connection.
ADAPTERS = adapt.AdaptersMap(psycopg.adapters)
ADAPTERS.register_dumper(Texts, _Dumper)
