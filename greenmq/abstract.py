"""Copying, comparing and binding of entities: values first, usable on a channel once one is given.

Nothing here knows connections or transports: a thing that has a ``default_channel`` stands for that channel.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from greenmq.exceptions import NotBoundError
from greenmq.utils import validate
from greenmq.utils.functional import ChannelPromise

if TYPE_CHECKING:
    from greenmq.types import Channel, ChannelLike

__all__ = ('MaybeChannelBound', 'Object')

_ObjectT = TypeVar('_ObjectT', bound='Object')
_BoundT = TypeVar('_BoundT', bound='MaybeChannelBound')

#: (attribute name, conversion applied to a value that is not None)
Attributes = tuple[tuple[str, Callable[[Any], Any] | None], ...]


def maybe_channel(channel: Any) -> Any:
    """Give the channel that `channel` stands for: a connection's default channel, anything else itself.

    Arguments:
        channel (Connection | Channel | ChannelPromise): told apart by having a `default_channel`.
    Switches: yes for a connection whose default channel is not open yet.
    Source: kombu.connection.maybe_channel; differs: by attribute, so that entities need no transport.
    """
    # Looked up on the class: on the instance the property would run, and hide its own AttributeError.
    if hasattr(type(channel), 'default_channel'):
        return channel.default_channel
    return channel


def unpickle_dict(cls: type[_ObjectT], kwargs: dict[str, Any]) -> _ObjectT:
    """Make an object again from what `Object.__reduce__` gave.

    Source: kombu.abstract.unpickle_dict.
    """
    return cls(**kwargs)


def _keywords(cls: type[Object]) -> frozenset[str]:
    known = set(dict(cls.attrs))
    for base in cls.__mro__:
        code = getattr(vars(base).get('__init__'), '__code__', None)
        if code is not None:
            known.update(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    return frozenset(known)


def is_closed(channel: Any) -> bool:
    """True if the channel says that it is closed."""
    if getattr(channel, 'closed', False):
        return True
    return getattr(channel, 'is_open', True) is False


class Object:
    """A value whose fields are listed in `attrs`: it can be copied and pickled, and becomes a dictionary.

    A keyword that is nearly the name of a field is refused with that name; others are ignored.

    Source: kombu.abstract.Object.
    """

    attrs: Attributes = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unknown = kwargs.keys() - dict(self.attrs).keys()
        if unknown:
            of = f'{type(self).__name__}()'
            validate.keywords(of, {name: kwargs[name] for name in unknown}, _keywords(type(self)))
        for name, convert in self.attrs:
            value = kwargs.get(name)
            if value is not None:
                setattr(self, name, convert(value) if convert is not None else value)
            elif not hasattr(self, name):
                setattr(self, name, None)

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """Give the fields by name.

        Arguments:
            recurse (bool): turn fields that are objects themselves into dictionaries too.
        Source: kombu.abstract.Object.as_dict.
        """
        fields = {}
        for name, convert in self.attrs:
            value = getattr(self, name)
            if recurse and isinstance(value, Object):
                value = value.as_dict(recurse=True)
            elif value is not None and convert is not None:
                value = convert(value)
            fields[name] = value
        return fields

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_dict, (self.__class__, self.as_dict())

    def __copy__(self: _ObjectT) -> _ObjectT:
        return self.__class__(**self.as_dict())


class MaybeChannelBound(Object):
    """An entity that may be bound to a channel; only a bound one can act on the broker.

    Source: kombu.abstract.MaybeChannelBound.
    """

    _channel: Any = None
    _is_bound = False

    #: Whether declaring it once an epoch is enough (an entity the broker may remove by itself is declared
    #: each time).
    can_cache_declaration: bool = False

    def __call__(self: _BoundT, channel: ChannelLike | None) -> _BoundT:
        """Give a copy bound to `channel`; the same as `bind`."""
        return self.bind(channel)

    def bind(self: _BoundT, channel: ChannelLike | None) -> _BoundT:
        """Give a copy that is bound to `channel`; this one stays as it is.

        Arguments:
            channel (Channel | Connection | None): for a connection its default channel is taken, and opened
                if need be.
        Switches: yes, see `maybe_channel`.
        Source: kombu MaybeChannelBound.bind.
        """
        return copy(self).maybe_bind(channel)

    def maybe_bind(self: _BoundT, channel: ChannelLike | None) -> _BoundT:
        """Bind this very object, unless it is bound already or `channel` is None.

        Returns:
            MaybeChannelBound: self.
        Switches: yes, see `maybe_channel`.
        Source: kombu MaybeChannelBound.maybe_bind.
        """
        if not self._is_bound and channel is not None:
            self._channel = maybe_channel(channel)
            self._is_bound = True
            self.when_bound()
        return self

    def revive(self, channel: ChannelLike) -> None:
        """Move a bound entity to another channel; an unbound one stays unbound.

        Switches: yes, see `maybe_channel`.
        Source: kombu MaybeChannelBound.revive.
        """
        if self._is_bound:
            self._channel = maybe_channel(channel)
            self.when_bound()

    def when_bound(self) -> None:
        """Called whenever the entity was bound or revived; for subclasses.

        Source: kombu MaybeChannelBound.when_bound.
        """

    @property
    def is_bound(self) -> bool:
        """Whether there is a channel to act on."""
        return self._is_bound and self._channel is not None

    @property
    def channel(self) -> Channel:
        """The channel this entity is bound to.

        Raises:
            NotBoundError: there is none.
        Switches: yes if the channel was promised and is opened now.
        """
        channel = self._channel
        if channel is None:
            raise NotBoundError(f"Can't call method on {type(self).__name__} not bound to a channel")
        if isinstance(channel, ChannelPromise):
            channel = self._channel = channel()
        return channel  # type: ignore[no-any-return]

    def _repr_entity(self, item: str = '') -> str:
        item = item or type(self).__name__
        if not self.is_bound:
            return f'<unbound {item}>'
        if isinstance(self._channel, ChannelPromise):
            return f'<{item} bound to chan:(not opened)>'  # a repr must not open a channel
        return f'<{item} bound to chan:{getattr(self._channel, "channel_id", None) or self._channel!r}>'

    def __repr__(self) -> str:
        return self._repr_entity()
