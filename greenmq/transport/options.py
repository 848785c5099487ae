"""What may stand in `transport_options` and in the query of a URL, and what its values are converted to."""

from __future__ import annotations

import _socket
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from greenmq.exceptions import InvalidArgument, UnknownOption

__all__ = (
    'COMMON_OPTIONS', 'EXPIRY_OPTIONS', 'Option', 'UnknownOptionWarning', 'convert', 'defaults',
    'options_table', 'seconds', 'tcp_options', 'truth',
)  # fmt: skip


class Option(NamedTuple):
    """One transport option: what turns a given value into the right type, the value when it's not given, its
    meaning.
    """

    type: Callable[[Any], Any] | None
    default: Any = None
    doc: str = ''


class UnknownOptionWarning(UserWarning):
    """A transport option that this transport doesn't know. Given once for each name and transport."""


def truth(value: Any) -> bool:
    """Convert to bool, also the words of a URL query: 1/0, true/false, yes/no, on/off.

    Raises:
        ValueError: any other text.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ('1', 'true', 'yes', 'on'):
            return True
        if word in ('0', 'false', 'no', 'off', ''):
            return False
        raise ValueError('neither true nor false')
    return bool(value)


def seconds(value: Any) -> float | None:
    """Convert to seconds, 0 or more; 'none' and None mean no limit.

    Raises:
        ValueError: not a number, or negative.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in ('none', '')):
        return None
    number = float(value)
    if not number >= 0:  # also refuses not-a-number
        raise ValueError('negative')
    return number


def whole(value: Any) -> int:
    """Convert to an integer of 0 or more.

    Raises:
        ValueError: not a whole number, or negative.
    """
    number = int(value)
    if number < 0:
        raise ValueError('negative')
    return number


def tcp_options(value: Any) -> dict[int, int | bytes]:
    """Convert to TCP socket options: a mapping of numbers, or of names as ``TCP_USER_TIMEOUT``, to numbers.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, Mapping):
        raise ValueError('no mapping of TCP options to values')
    found: dict[int, int | bytes] = {}
    for name, setting in value.items():
        number = getattr(_socket, name, None) if isinstance(name, str) and name.isupper() else name
        if not isinstance(number, int):
            raise ValueError(f'{name!r} is no TCP option')
        if not isinstance(setting, (int, bytes)):
            raise ValueError(f'the value of {name!r} is no number')
        found[int(number)] = setting
    return found


#: Known to every transport. `connection` and `messaging` read these.
COMMON_OPTIONS: dict[str, Option] = {
    'strict_options': Option(truth, False, 'an unknown name raises UnknownOption instead of a warning'),
    'publish_timeout': Option(seconds, 30.0, 'deadline in seconds of a publish that names none'),
    'close_timeout': Option(seconds, 5.0, 'seconds that close() may take'),
    'connect_timeout': Option(
        seconds, 5.0, 'deadline in seconds of DNS, TCP, TLS and the handshake together'
    ),
    'connect_retries_timeout': Option(
        seconds, 30.0, 'seconds that an implicit connect (default_channel, the first publish) tries at most'
    ),
    'default_prefetch': Option(whole, 1000, 'prefetch of a consumer that sets none; 0 is unlimited'),
    'max_decoded_bytes': Option(whole, 64 * 1024 * 1024, 'largest body that decompression may give'),
    'max_retries': Option(None, None, 'how often ensure() tries'),
    'interval_start': Option(None, None, 'seconds before the first retry'),
    'interval_step': Option(None, None, 'seconds that each retry waits longer'),
    'interval_max': Option(None, None, 'longest wait in seconds between retries'),
    'errback': Option(None, None, 'called with (error, seconds) before each retry'),
    'callback': Option(None, None, 'called between retries'),
    'client_properties': Option(None, None, 'what the client tells the broker of itself'),
    'polling_interval': Option(
        seconds, None, 'seconds between looks, for third-party channels that can only poll'
    ),
}

#: What those have besides whose messages are looked at by greenmq and not by a broker.
EXPIRY_OPTIONS: dict[str, Option] = {
    'drop_expired': Option(
        truth, True, 'a message whose expiration has passed is not delivered; False leaves it to the consumer'
    ),
}

_warned: set[tuple[str, str]] = set()


def options_table(transport_cls: Any) -> dict[str, Option]:
    """Return every option that a transport class knows, by name.

    The tables `options` of the class and its bases are joined with `COMMON_OPTIONS`, and the names in
    `Channel.from_transport_options`, kombu's way to declare them, count as known without a type.
    """
    table = dict(COMMON_OPTIONS)
    channel = getattr(transport_cls, 'Channel', None)
    for name in getattr(channel, 'from_transport_options', None) or ():
        table.setdefault(name, Option(None))
    for cls in reversed(getattr(transport_cls, '__mro__', ())):
        table.update(cls.__dict__.get('options') or {})
    return table


def defaults(transport_cls: Any) -> dict[str, Any]:
    """Return the default of every option of a transport class."""
    return {name: option.default for name, option in options_table(transport_cls).items()}


def convert(given: Mapping[str, Any] | None, transport_cls: Any, where: str = '') -> dict[str, Any]:
    """Return a copy of the given transport options with every value of the right type.

    Arguments:
        given (Mapping): `transport_options`, the query of the URL already merged in; never changed.
        transport_cls (type): whose options they are.
        where (str): what messages call the transport; its name by default.
    Returns:
        dict[str, object]: only what was given; see `defaults` for the rest.
    Raises:
        InvalidArgument: a value that can't be converted.
        UnknownOption: an unknown name, with `strict_options`.
    Source: greenmq's own; kombu takes any name and any value.
    """
    if not given:
        return {}
    table = options_table(transport_cls)
    where = where or str(
        getattr(transport_cls, 'driver_type', None) or getattr(transport_cls, '__name__', '?')
    )
    converted = {name: _value(name, value, table.get(name), where) for name, value in given.items()}
    unknown = [name for name in converted if name not in table]
    strict = bool(converted.get('strict_options'))
    if unknown and (strict or _has_table(transport_cls)):
        _report(unknown, table, where, strict)
    return converted


def _has_table(transport_cls: Any) -> bool:
    """False for a transport written for kombu that names its options nowhere and reads what it likes."""
    for cls in getattr(transport_cls, '__mro__', ()):
        if 'options' in cls.__dict__:
            return not cls.__dict__.get('generic_options')
    return True


def _value(name: str, value: Any, option: Option | None, where: str) -> Any:
    if option is None or option.type is None or value is None:
        return value
    try:
        return option.type(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f'option {name!r} of {where}', value, f'is refused ({error}): {option.doc}'
        ) from error


def _report(unknown: Iterable[str], table: Mapping[str, Option], where: str, strict: bool) -> None:
    from difflib import get_close_matches  # for those who mistyped; the others need not wait

    for name in unknown:
        nearest = next(iter(get_close_matches(str(name), list(table), 1)), None)
        if strict:
            raise UnknownOption(str(name), where, nearest)
        if (where, name) not in _warned:
            # Once: Celery passes one dict to every broker, for each connection it makes.
            _warned.add((where, name))
            hint = f'; did you mean {nearest!r}?' if nearest else ''
            warnings.warn(
                f'{where} has no transport option {name!r}{hint}', UnknownOptionWarning, stacklevel=4
            )
