"""What a mailbox takes for a command, whoever wrote it: fields of the right kinds, and a place for the reply
that is one for replies. Nothing here switches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from greenmq.exceptions import InvalidArgument

__all__ = ('check_command', 'number_of', 'reply_place')

#: Kinds of the fields; each may be missing or None, except the method.
_KINDS: dict[str, tuple[type, ...]] = {
    'method': (str,),
    'arguments': (dict,),
    'destination': (list, tuple, str),  # a text is the name of one node
    'pattern': (str,),
    'matcher': (str,),
    'reply_to': (dict,),
    'ticket': (str,),
}
#: Characters of a pattern, and repetitions in a regular expression, that a sender may have a node look for.
LONGEST_PATTERN = 512
MOST_REPETITIONS = 3
_ESCAPED_OR_CLASS = re.compile(r'\\(?:[1-9][0-9]?|.)|\[\^?\]?(?:\\.|[^\]\\])*\]', re.DOTALL)
_REPETITION = re.compile(r'(?:(?<!\()[*+?]|\{[0-9]*,?[0-9]*\})[?+]?')
#: Or what may hide one: a reference by name, a condition, a look ahead, a pattern with comments in it.
_REPEATED_GROUP = re.compile(r'\)\s*(?:[*+?]|\{[0-9]*,?[0-9]*\})|\(\?(?:P?=|\(|[a-zA-Z]*x)')
#: Clocks and times beyond this are no clocks and times.
_MOST = 2**53


def check_command(body: Any, exchanges: Sequence[str]) -> None:
    """Check a message's body before it is run.

    Arguments:
        exchanges (Sequence[str]): as for `reply_place`.
    Raises:
        InvalidArgument: it is no command; the error names the field.
    """
    if not isinstance(body, dict):
        raise InvalidArgument('command', type(body), 'is no map')
    if not all(isinstance(name, str) for name in body):
        raise InvalidArgument('command', type(body), 'has names that are no text')
    if not body.get('method'):
        raise InvalidArgument('method', body.get('method'), 'is missing')
    for name, kinds in _KINDS.items():
        value = body.get(name)
        if value is not None and not isinstance(value, kinds):
            raise InvalidArgument(name, type(value), f'is no {kinds[0].__name__}')
    for what, names in (('arguments', body.get('arguments')), ('destination', body.get('destination'))):
        if not all(isinstance(name, str) for name in names or ()):
            raise InvalidArgument(what, type(names), 'has names that are no text')
    for what in ('pattern', 'matcher'):
        if len(body.get(what) or '') > LONGEST_PATTERN:
            raise InvalidArgument(what, body[what][:40], f'is longer than {LONGEST_PATTERN} characters')
    if body.get('matcher') == 'pcre':
        check_expression(body.get('pattern') or '')
    reply_place(body, exchanges)


def check_expression(pattern: str) -> None:
    """Check a stranger's regular expression: one that could try for minutes would hold up the whole hub.

    What takes such time repeats: a group within a repetition, or many repetitions in a row. Three of them
    take at most the third power of the length of a name.

    Raises:
        InvalidArgument: it repeats a group or a reference, or in more than `MOST_REPETITIONS` places.
    """
    plain = _ESCAPED_OR_CLASS.sub(_as_one, pattern)
    if _REPEATED_GROUP.search(plain):
        raise InvalidArgument('pattern', pattern[:40], 'repeats a group')
    count = len(_REPETITION.findall(plain))
    if count > MOST_REPETITIONS:
        limit = f'repeats in {count} places, at most {MOST_REPETITIONS} are allowed'
        raise InvalidArgument('pattern', pattern[:40], limit)


def _as_one(found: re.Match[str]) -> str:
    # A reference to a group may be as long as the group.
    return ')' if found[0][1:].isdigit() and found[0][1] != '0' else 'x'


def reply_place(body: dict[str, Any], exchanges: Sequence[str]) -> dict[str, str] | None:
    """Where the sender of a command wants its reply, None if he wants none.

    Arguments:
        exchanges (Sequence[str]): names or shell patterns of the exchanges that replies may go to: a sender
            must not have a node publish, and declare, just anywhere.
    Raises:
        InvalidArgument: it is no exchange and routing key, or another exchange.
    """
    place = body.get('reply_to')
    if place is None or place == {}:
        return None
    names: dict[str, str] = {}
    for name in ('exchange', 'routing_key'):
        value = place.get(name) if isinstance(place, dict) else None
        if not isinstance(value, str):
            raise InvalidArgument('reply_to', type(place), 'has no exchange and routing_key of text')
        if len(value.encode(errors='replace')) > 255:
            raise InvalidArgument('reply_to', value[:40], 'is longer than 255 bytes')
        names[name] = value
    if not any(fnmatchcase(names['exchange'], pattern) for pattern in exchanges):
        raise InvalidArgument('reply_to', names['exchange'], f'is none of {", ".join(exchanges)}')
    return names


def number_of(headers: Any, name: str) -> float:
    """A clock or a time in the headers of a command or reply; 0 for what is none."""
    value = headers.get(name) if isinstance(headers, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        return 0
    return value
