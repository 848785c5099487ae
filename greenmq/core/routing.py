"""Bindings and a routing key to targets: direct, fanout, topic and headers exchanges.

A table knows nothing of brokers: targets are hashable values, in practice names of queues. Adding, removing
and routing are exact to AMQP: a binding is identified by target, key *and* arguments, and a target appears
once however many of its bindings match.

Topic patterns are matched by word, never by a regular expression made of them: ``*`` is exactly one word
(which may be empty, as the middle one of ``a..b``), ``#`` is any number of words, none included. The empty
key has no words.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

from greenmq.exceptions import InvalidArgument

__all__ = ('TABLES', 'DirectTable', 'FanoutTable', 'HeadersTable', 'Table', 'TopicTable', 'freeze',
'match_topic', 'table')

Target = TypeVar('Target', bound=Hashable)
Arguments = Mapping[str, Any]


def freeze(arguments: Arguments | None) -> Hashable:
    """Make a hashable value of binding arguments, equal for equal arguments only.

    None and no arguments at all are the same. True and 1 are not, nor 1 and 1.0: brokers tell them apart.
    """
    return _freeze(arguments) if arguments else None


def _freeze(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((key, _freeze(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return (type(value), repr(value))
    return (type(value), value)


def match_topic(pattern: str, key: str) -> bool:
    """Match one topic pattern with one routing key, word by word.

    Arguments:
        pattern (str): words between dots; ``*`` is one word, ``#`` any number of words, none included.
        key (str): words between dots; ``*`` and ``#`` mean nothing special here.
    Switches: no. Costs at most the product of the two numbers of words.
    Source: AMQP 0-9-1, 3.1.3.3 The Topic Exchange Type.
    """
    want, words = _words(pattern), _words(key)
    at = taken = 0
    hash_at = -1  # the last `#` passed, and from where on the words it has not swallowed yet begin
    hash_from = 0
    while taken < len(words):
        if at < len(want) and want[at] == '#':
            hash_at, hash_from = at, taken
            at += 1
        elif at < len(want) and want[at] in ('*', words[taken]):
            at += 1
            taken += 1
        elif hash_at >= 0:
            hash_from += 1
            at, taken = hash_at + 1, hash_from
        else:
            return False
    return all(word == '#' for word in want[at:])


def _words(text: str) -> list[str]:
    # ''.split('.') would be one empty word, but the specification counts the words from zero.
    return text.split('.') if text else []


class Table(Generic[Target]):
    """The bindings of one exchange.

    Subclasses give `route` and keep an index for it, told by `_insert` and `_delete`.
    """

    __slots__ = ('_count', '_of_target')

    type = ''

    def __init__(self) -> None:
        # target -> (key, frozen arguments) -> the arguments: what is bound, and what to remove with a target.
        self._of_target: dict[Target, dict[tuple[str, Hashable], dict[str, Any] | None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: {self._count} bindings, {len(self._of_target)} targets>'

    def add(self, target: Target, key: str = '', arguments: Arguments | None = None) -> bool:
        """Bind a target.

        Returns:
            bool: False if it was bound just so already.
        Raises:
            InvalidArgument: arguments that this type of exchange does not understand; nothing was bound.
        """
        name = (key, freeze(arguments))
        mine = self._of_target.get(target)
        if mine is not None and name in mine:
            return False
        kept = dict(arguments) if arguments else None
        self._insert(target, key, name, kept)
        if mine is None:
            mine = self._of_target[target] = {}
        mine[name] = kept
        self._count += 1
        return True

    def remove(self, target: Target, key: str = '', arguments: Arguments | None = None) -> bool:
        """Remove one binding.

        Returns:
            bool: False if there is no such binding.
        """
        name = (key, freeze(arguments))
        mine = self._of_target.get(target)
        if mine is None or name not in mine:
            return False
        del mine[name]
        if not mine:
            del self._of_target[target]
        self._count -= 1
        self._delete(target, key, name)
        return True

    def remove_target(self, target: Target) -> int:
        """Remove all bindings of a target.

        Returns:
            int: how many there were.
        """
        mine = self._of_target.pop(target, {})
        for name in mine:
            self._delete(target, name[0], name)
        self._count -= len(mine)
        return len(mine)

    def bindings(self) -> list[tuple[Target, str, dict[str, Any] | None]]:
        """List (target, key, arguments) of every binding, a copy, grouped by target."""
        return [
            (target, key, dict(arguments) if arguments else None)
            for target, mine in self._of_target.items()
            for (key, _), arguments in mine.items()
        ]

    def route(self, key: str, headers: Arguments | None = None) -> list[Target]:
        """Find who gets a message.

        Arguments:
            key (str): its routing key.
            headers (Mapping | None): its headers; only a headers exchange looks at them.
        Returns:
            list: each target once; the order stays the same while the bindings do.
        """
        raise NotImplementedError

    def _insert(
        self, target: Target, key: str, name: tuple[str, Hashable], arguments: dict[str, Any] | None
    ) -> None:
        raise NotImplementedError

    def _delete(self, target: Target, key: str, name: tuple[str, Hashable]) -> None:
        raise NotImplementedError


class _Targets(dict[Target, int]):
    # target -> how many bindings lead to it from here: the same key may be bound with several arguments.
    __slots__ = ()

    def gain(self, target: Target) -> None:
        self[target] = self.get(target, 0) + 1

    def lose(self, target: Target) -> None:
        if self[target] == 1:
            del self[target]
        else:
            self[target] -= 1


class DirectTable(Table[Target]):
    """A message goes where its routing key is bound literally. O(targets found)."""

    __slots__ = ('_targets',)

    type = 'direct'

    def __init__(self) -> None:
        super().__init__()
        self._targets: dict[str, _Targets[Target]] = {}

    def route(self, key: str, headers: Arguments | None = None) -> list[Target]:
        return list(self._targets.get(key, ()))

    def _insert(
        self, target: Target, key: str, name: tuple[str, Hashable], arguments: dict[str, Any] | None
    ) -> None:
        self._targets.setdefault(key, _Targets()).gain(target)

    def _delete(self, target: Target, key: str, name: tuple[str, Hashable]) -> None:
        targets = self._targets[key]
        targets.lose(target)
        if not targets:
            del self._targets[key]


class FanoutTable(Table[Target]):
    """A message goes to every target, whatever its key. O(targets)."""

    __slots__ = ()

    type = 'fanout'

    def route(self, key: str, headers: Arguments | None = None) -> list[Target]:
        return list(self._of_target)

    def _insert(
        self, target: Target, key: str, name: tuple[str, Hashable], arguments: dict[str, Any] | None
    ) -> None:
        """Nothing to keep: who is bound at all gets it."""

    def _delete(self, target: Target, key: str, name: tuple[str, Hashable]) -> None:
        """Nothing is kept."""


class _Node(Generic[Target]):
    # One word of topic patterns; `many` marks the node of a `#`.
    __slots__ = ('children', 'many', 'targets')

    def __init__(self, many: bool = False) -> None:
        self.children: dict[str, _Node[Target]] = {}
        self.targets: _Targets[Target] = _Targets()
        self.many = many


class TopicTable(Table[Target]):
    """A message goes where a pattern matches its key.

    The patterns are a tree of words, walked once with all places reached so far in hand: the cost depends on
    the words of the key and on how many patterns it partly matches, not on how many are bound; no pattern
    makes it exponential.
    """

    __slots__ = ('_root',)

    type = 'topic'

    def __init__(self) -> None:
        super().__init__()
        self._root: _Node[Target] = _Node()

    def route(self, key: str, headers: Arguments | None = None) -> list[Target]:
        reached: dict[_Node[Target], None] = {}
        _reach(reached, self._root)
        for word in _words(key):
            places, reached = reached, {}
            for node in places:
                if node.many:  # a `#` swallows this word too
                    _reach(reached, node)
                children = node.children
                if children:
                    _reach(reached, children.get(word))
                    _reach(reached, children.get('*'))
            if not reached:
                return []
        found: dict[Target, int] = {}
        for node in reached:
            found.update(node.targets)
        return list(found)

    def _insert(
        self, target: Target, key: str, name: tuple[str, Hashable], arguments: dict[str, Any] | None
    ) -> None:
        node = self._root
        for word in _words(key):
            child = node.children.get(word)
            if child is None:
                child = node.children[word] = _Node(word == '#')
            node = child
        node.targets.gain(target)

    def _delete(self, target: Target, key: str, name: tuple[str, Hashable]) -> None:
        path = [self._root]
        words = _words(key)
        for word in words:
            path.append(path[-1].children[word])
        path[-1].targets.lose(target)
        # Cut what leads nowhere now, or short-lived reply patterns would fill the tree.
        while words and not path[-1].targets and not path[-1].children:
            path.pop()
            del path[-1].children[words.pop()]


def _reach(reached: dict[_Node[Target], None], node: _Node[Target] | None) -> None:
    # Being at a node is being at the `#` below it as well: it may swallow no word.
    while node is not None and node not in reached:
        reached[node] = None
        node = node.children.get('#')


class _HeadersMatch:
    # What one binding asks of the headers of a message.
    __slots__ = ('any', 'wanted')

    def __init__(self, arguments: Arguments | None) -> None:
        arguments = arguments or {}
        kind = arguments.get('x-match', 'all')
        if kind not in ('all', 'any', 'all-with-x', 'any-with-x'):
            raise InvalidArgument('x-match', kind, 'must be all, any, all-with-x or any-with-x')
        with_x = kind.endswith('-with-x')
        self.any = kind.startswith('any')
        self.wanted = [
            (header, value)
            for header, value in arguments.items()
            if header != 'x-match' and (with_x or not header.startswith('x-'))
        ]

    def matches(self, headers: Arguments) -> bool:
        for header, value in self.wanted:
            # A wanted value of None asks only for the header to be there.
            if (header in headers and (value is None or _same(value, headers[header]))) is self.any:
                return self.any
        return not self.any


def _same(wanted: Any, given: Any) -> bool:
    # Python's 1 == True == 1.0; on the wire these are a long, a bit and a double, and match their own kind.
    return bool(wanted == given) and _kind(wanted) is _kind(given)


def _kind(value: Any) -> type:
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind
    return object


class HeadersTable(Table[Target]):
    """A message goes where the arguments of a binding match its headers; its key means nothing. O(bindings).

    The argument ``x-match`` says whether ``all`` (the default; no headers asked: every message) or ``any``
    (none asked: no message) must match. Other arguments that begin with ``x-`` are left out, unless it is
    ``all-with-x`` or ``any-with-x``.

    Source: RabbitMQ, headers exchange.
    """

    __slots__ = ('_matches',)

    type = 'headers'

    def __init__(self) -> None:
        super().__init__()
        self._matches: dict[tuple[Target, tuple[str, Hashable]], _HeadersMatch] = {}

    def route(self, key: str, headers: Arguments | None = None) -> list[Target]:
        given = headers or {}
        found: dict[Target, None] = {}
        for (target, _), match in self._matches.items():
            if target not in found and match.matches(given):
                found[target] = None
        return list(found)

    def _insert(
        self, target: Target, key: str, name: tuple[str, Hashable], arguments: dict[str, Any] | None
    ) -> None:
        self._matches[target, name] = _HeadersMatch(arguments)

    def _delete(self, target: Target, key: str, name: tuple[str, Hashable]) -> None:
        del self._matches[target, name]


TABLES: Mapping[str, type[Table[Any]]] = {
    kind.type: kind for kind in (DirectTable, FanoutTable, HeadersTable, TopicTable)
}


def table(type: str) -> Table[Any]:
    """Make the empty table of an exchange.

    Arguments:
        type (str): direct, fanout, headers or topic.
    Raises:
        InvalidArgument: another type.
    """
    try:
        kind = TABLES[type]
    except KeyError:
        raise InvalidArgument('exchange type', type, f'must be one of {", ".join(TABLES)}') from None
    return kind()
