"""What a command is answered with: shapes that replies are held against, and how a reply is shown in texts.

A shape is a class; a frozenset of classes: a list of any length with items of these; a function that tells; a
tuple of shapes, any of which will do; or None, for the reply that there is nothing.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.redis.errors import WrongReply

__all__ = ('DONE', 'NUMBERS', 'TEXTS', 'expect', 'fits', 'is_facts', 'short')

#: "OK", or what says the same, or a number.
DONE = (int, bytes)
#: Any number of numbers; of texts.
NUMBERS = frozenset((int,))
TEXTS = frozenset((bytes,))


def fits(reply: Any, shape: Any) -> bool:
    """Is the reply of this shape?"""
    kind = shape.__class__
    if kind is type:
        return reply.__class__ is shape
    if kind is tuple:
        return any(fits(reply, each) for each in shape)
    if kind is frozenset:
        return reply.__class__ is list and set(map(type, reply)) <= shape
    return reply is None if shape is None else bool(shape(reply))


def is_facts(reply: Any) -> bool:
    """Is it a map of texts, which RESP2 gives as a list?"""
    return reply.__class__ is dict or (reply.__class__ is list and len(reply) % 2 == 0)


def expect(reply: Any, shape: Any, where: str) -> Any:
    """The reply, if it is of this shape.

    Whoever answers in another shape speaks of something else than we do, so nothing that follows on that
    connection can be believed: `Link.expect` ends it, and so does what takes replies and raises this.

    Arguments:
        where (str): who answered, for the text.
    Raises:
        WrongReply: it is of another shape.
    """
    if fits(reply, shape):
        return reply
    raise WrongReply(f'redis {where}: a reply of the wrong kind: {short(reply)}')


def short(reply: Any) -> str:
    """A reply in a text: its kind, and its beginning if it is a text or a number."""
    name = type(reply).__name__
    if isinstance(reply, bytes):
        return f'{name} {reply[:80]!r}'
    if isinstance(reply, (int, float)):
        # A number may have more digits than Python prints.
        return f'{name} {reply!r}' if -(2**64) < reply < 2**64 else name
    return f'{name} of {len(reply)}' if isinstance(reply, (list, dict)) else name
