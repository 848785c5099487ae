"""Checks of what a caller gave, made before anything is sent: errors name argument, value and limit.

The hot paths call these only when a cheap look says that there is something to check.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any
from uuid import UUID

from greenmq.exceptions import InvalidArgument, also

__all__ = (
    'at_least_zero', 'expiration_ms', 'headers', 'keywords', 'names', 'priority', 'queue_arguments',
    'queue_limits', 'short_string', 'whole_number',
)  # fmt: skip

#: Names and routing keys travel as AMQP short strings: one byte of length.
SHORT_STRING_BYTES = 255
#: A priority travels as one octet.
MAX_PRIORITY = 255
#: Expirations and TTLs travel as unsigned 32 bit milliseconds.
MAX_MILLISECONDS = 2**32 - 1
#: Those of a queue may be longer: RabbitMQ takes ten years.
MAX_QUEUE_MILLISECONDS = 10 * 365 * 86_400_000

_PLAIN = (str, int, float, bytes, bytearray, memoryview, datetime.date, Decimal, UUID)
#: Of difflib's ratio: one letter of four is missing, or one of eight is another.
_NEAR = 0.85
_MAX_DEPTH = 64  # of nested headers: beyond it the broker's parser, or a cycle, is the next to fail


def short_string(what: str, value: Any) -> str:
    """Check a name or routing key: text of at most 255 bytes of UTF-8.

    Arguments:
        what (str): the argument's name, for the error.
        value (str): what was given.
    Returns:
        str: the value.
    Raises:
        InvalidArgument: another type, too long, or not encodable.
    Source: AMQP 0-9-1, 4.2.5.3 Strings.
    """
    if not isinstance(value, str):
        raise InvalidArgument(what, value, f'is {_kind(value)}, a str is needed')
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(what, value, 'holds a lone surrogate, which UTF-8 cannot encode') from None
    if size > SHORT_STRING_BYTES:
        raise InvalidArgument(what, value, f'is {size} bytes long, at most {SHORT_STRING_BYTES} allowed')
    return value


def names(**given: Any) -> None:
    """Check names and routing keys, each given by what it is: as `short_string`, or None."""
    for what, value in given.items():
        if value is not None:
            short_string(what, value)


def whole_number(what: str, value: Any, lowest: int = 0, highest: int | None = None) -> int:
    """Check an integer within limits.

    Returns:
        int: the value.
    Raises:
        InvalidArgument: another type, or out of the limits.
    """
    if isinstance(value, bool) or not hasattr(value, '__index__'):
        raise InvalidArgument(what, value, f'is {_kind(value)}, an int is needed')
    number = int(value)
    if number < lowest:
        raise InvalidArgument(what, value, f'is below {lowest}')
    if highest is not None and number > highest:
        raise InvalidArgument(what, value, f'is above {highest}')
    return number


def priority(value: Any) -> int:
    """Check a message's priority: 0 to 255."""
    return whole_number('priority', value, 0, MAX_PRIORITY)


def at_least_zero(what: str, value: Any) -> float:
    """Check a duration or size that may be anything from zero up, in the unit of `what`.

    Returns:
        float: the value; a numeric string is converted, as in kombu.
    Raises:
        InvalidArgument: not a number, not finite, or negative.
    """
    try:
        number = float(value)
    except OverflowError:
        raise InvalidArgument(what, value, 'is beyond all numbers that are of use') from None
    except (TypeError, ValueError):
        if isinstance(value, datetime.timedelta):
            limit = f'is a timedelta, seconds are needed: its total_seconds(), {value.total_seconds():g}'
        else:
            limit = f'is {_kind(value)}, a number is needed'
        raise InvalidArgument(what, value, limit) from None
    if not isfinite(number):
        raise InvalidArgument(what, value, 'is not finite')
    if number < 0:
        raise InvalidArgument(what, value, 'is negative, at least 0 needed')
    return number


def expiration_ms(value: Any) -> str:
    """Turn an expiration in seconds into the text of milliseconds that travels with a message.

    Arguments:
        value (float | str): seconds, 0 or more; fractions of a millisecond are cut off.
    Returns:
        str: milliseconds.
    Raises:
        InvalidArgument: not a number, negative, or more than 32 bits of milliseconds (49 days).
    Source: kombu Producer.publish; RabbitMQ "TTL", per-message.
    """
    ms = int(at_least_zero('expiration', value) * 1000)
    if ms > MAX_MILLISECONDS:
        raise InvalidArgument('expiration', value, f'is above {MAX_MILLISECONDS // 1000} seconds')
    return str(ms)


#: Queue options in seconds → the least of them, in milliseconds.
_DURATIONS = {'expires': 1, 'message_ttl': 0}
#: RabbitMQ's queue arguments that are whole numbers → the least and the most of them.
_WHOLE_ARGUMENTS = {
    'x-expires': (1, MAX_QUEUE_MILLISECONDS),
    'x-message-ttl': (0, MAX_QUEUE_MILLISECONDS),
    'x-max-length': (0, None),
    'x-max-length-bytes': (0, None),
    'x-max-priority': (0, MAX_PRIORITY),
}


def queue_limits(owner: str, **given: Any) -> None:
    """Check the options of a queue that are numbers; None is none.

    Arguments:
        owner (str): whose they are, for the error, e.g. "of queue 'q'".
        expires (float), message_ttl (float): seconds; a queue cannot expire in less than a millisecond.
        max_length (int), max_length_bytes (int): whole numbers.
        max_priority (int): 0 to 255.
    Raises:
        InvalidArgument: what a broker would refuse, or this library could only guess at.
    Source: RabbitMQ "Queues, optional arguments".
    """
    for name, value in given.items():
        if value is None:
            continue
        what = f'{name} {owner}'
        if name in _DURATIONS:
            ms = int(at_least_zero(what, value) * 1000)
            if ms < _DURATIONS[name]:
                raise InvalidArgument(what, value, 'is less than a millisecond, the least there is')
            if ms > MAX_QUEUE_MILLISECONDS:
                raise InvalidArgument(what, value, f'is above {MAX_QUEUE_MILLISECONDS // 1000} seconds')
        elif name == 'max_priority':
            whole_number(what, value, 0, MAX_PRIORITY)
        elif at_least_zero(what, value) % 1:
            raise InvalidArgument(what, value, 'is no whole number')


def queue_arguments(owner: str, arguments: Any) -> None:
    """Check the arguments that a caller gives a queue under the broker's own names.

    Raises:
        InvalidArgument: what cannot travel, or what RabbitMQ would refuse among the arguments it knows.
    """
    headers(arguments, f'queue_arguments {owner}')
    for name, (lowest, highest) in _WHOLE_ARGUMENTS.items():
        value = arguments.get(name)
        if value is not None:
            whole_number(f'{name} {owner}', value, lowest, highest)
    for name in ('x-dead-letter-exchange', 'x-dead-letter-routing-key'):
        if arguments.get(name) is not None:
            short_string(f'{name} {owner}', arguments[name])


def headers(value: Any, what: str = 'headers') -> None:
    """Check a message's headers: a mapping of str to what a message header can hold.

    Arguments:
        value (Mapping[str, object]): values are str, bytes, numbers, dates, None, and lists or mappings of
            these.
        what (str): the argument's name, for the error.
    Raises:
        InvalidArgument: another shape, naming the header.
    Source: AMQP 0-9-1, 4.2.5.5 Field tables.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument(what, value, f'is {_kind(value)}, a mapping of str is needed')
    _fields(value, what, 0)


def _fields(fields: Mapping[Any, Any], what: str, depth: int) -> None:
    for name, item in fields.items():
        if not isinstance(name, str):
            raise InvalidArgument(
                f'the name of a field of {what}', name, f'is {_kind(name)}, a str is needed'
            )
        if (
            len(name) > SHORT_STRING_BYTES // 4
        ):  # four bytes a character at most: shorter names need no encoding
            short_string(f'the name of a field of {what}', name)
        if item is None:
            continue
        if not isinstance(item, _PLAIN):
            _nested(item, f'{what}[{name[:40]!r}]', depth + 1)
        elif item.__class__ is float and not isfinite(item):
            raise InvalidArgument(f'{what}[{name[:40]!r}]', item, 'is not finite, which no broker can carry')


def _nested(item: Any, what: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidArgument(what, type(item), f'is nested more than {_MAX_DEPTH} deep')
    if isinstance(item, Mapping):
        _fields(item, what, depth)
    elif isinstance(item, (list, tuple)):
        for each in item:
            if each is None:
                continue
            if not isinstance(each, _PLAIN):
                _nested(each, what, depth + 1)
            elif each.__class__ is float and not isfinite(each):
                raise InvalidArgument(what, each, 'is not finite, which no broker can carry')
    else:
        raise InvalidArgument(what, item, f'is {_kind(item)}, which a header cannot hold')


def _kind(value: object) -> str:
    return 'None' if value is None else f'of type {type(value).__name__}'


def keywords(
    of: str, given: Mapping[str, Any], known: frozenset[str], also: frozenset[str] = frozenset()
) -> None:
    """Refuse a keyword that is nearly a known one: it was misspelt. What is like none of them is left alone.

    Arguments:
        of (str): whose keywords they are, for the error.
        given (Mapping[str, object]): what was given by name.
        known (frozenset[str]): the names there are.
        also (frozenset[str]): names that are let through, but that nobody can have meant.
    Raises:
        InvalidArgument: with the name that was meant.
    """
    for name in given:
        if name not in known and name not in also:
            meant = _meant(name, known)
            if meant is not None:
                what = f'the keyword {name!r} of {of}'
                raise InvalidArgument(what, given[name], f'is unknown, did you mean {meant!r}? Given')


@lru_cache(maxsize=1024)  # a program has few names of its own, and may use them for each message
def _meant(name: str, known: frozenset[str]) -> str | None:
    from difflib import get_close_matches  # for those who mistyped; the others need not wait

    # Another letter at the end of a short word makes another word: type, types.
    likely = [each for each in sorted(known) if len(each) > 4 or len(name) <= len(each)]
    plain = {each.replace('_', '').lower(): each for each in likely}
    found = get_close_matches(name.replace('_', '').lower(), plain, 1, _NEAR)
    return plain[found[0]] if found else None


def pool_limit(limit: Any) -> Any:
    """The limit of a pool as it was given: a number or None.

    Raises:
        InvalidArgument: a bool, which would pass for 1 or 0; a TypeError too, as kombu's.
    """
    if isinstance(limit, bool):
        raise also(InvalidArgument, TypeError)('limit', limit, 'must be an int, not bool')
    return limit
