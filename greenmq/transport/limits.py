"""The arguments of a queue that limit it, as RabbitMQ names them: read and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from greenmq.exceptions import InvalidArgument
from greenmq.utils.json import dumps

__all__ = ('QueueLimits', 'arguments_text')

_OVERFLOWS = ('drop-head', 'reject-publish', 'reject-publish-dlx')


def arguments_text(arguments: Any) -> str:
    """The text by which a store keeps the arguments of a queue or a binding, and finds them again."""
    return dumps(arguments, sort_keys=True, default=str)


class QueueLimits(NamedTuple):
    """What a queue's arguments limit.

    Attributes:
        ttl (float | None): seconds that a message stays; 0 is: only if somebody takes it at once.
        expires (float | None): seconds that the queue lives while nobody uses it.
        max_length (int | None), max_bytes (int | None): messages, and bytes of bodies, that it holds.
        max_priority (int | None): highest priority, up to 255.
        overflow (str): 'drop-head', 'reject-publish' or 'reject-publish-dlx'.
        dead_exchange (str | None): where to messages go that are rejected, too old or too many.
        dead_key (str | None): with this routing key; None: with their own.
    """

    ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    max_priority: int | None = None
    overflow: str = 'drop-head'
    dead_exchange: str | None = None
    dead_key: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any] | None) -> QueueLimits:
        """Read them; unknown arguments are somebody else's.

        Raises:
            InvalidArgument: one of the wrong kind or range.
        """
        given = arguments or {}
        overflow = given.get('x-overflow') or 'drop-head'
        if overflow not in _OVERFLOWS:
            raise InvalidArgument('x-overflow', overflow, f'is none of {", ".join(_OVERFLOWS)}')
        return cls(
            _seconds(given, 'x-message-ttl', 0), _seconds(given, 'x-expires', 1),
            _limit(given, 'x-max-length'), _limit(given, 'x-max-length-bytes'),
            _limit(given, 'x-max-priority', 255), overflow,
            given.get('x-dead-letter-exchange'), given.get('x-dead-letter-routing-key'),
        )  # fmt: skip

    @property
    def limited(self) -> bool:
        """True if it may be full."""
        return self.max_length is not None or self.max_bytes is not None

    @property
    def rejects(self) -> bool:
        """True if a full queue takes no more; False if its oldest message goes."""
        return self.overflow != 'drop-head'


def _seconds(given: Mapping[str, Any], name: str, least: int) -> float | None:
    value = _limit(given, name, least=least)
    return None if value is None else value / 1000


def _limit(given: Mapping[str, Any], name: str, most: int | None = None, least: int = 0) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(name, value, 'is not a whole number')
    if value < least:
        raise InvalidArgument(name, value, f'is below {least}')
    if most is not None and value > most:
        raise InvalidArgument(name, value, f'is above {most}')
    return value
