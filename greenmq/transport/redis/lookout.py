"""How messages are waited for where the server does not tell of changed keys (no CLIENT TRACKING).

``BLMOVE list list RIGHT RIGHT`` puts the message in front back to where it was, in one step at the server: it
takes nothing, keeps the order, and answers as soon as there is one, also if it came between the fetch that
found none and this command. So its answer only means "fetch again", and whoever dies meanwhile loses nothing.
A connection can wait for one list at a time: each gets its own, up to MOST of them. For further lists, and
where the command is forbidden too, consumers look every 10 to 500 ms.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from redis.exceptions import MovedError

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, ConnectionLost
from greenmq.log import get_logger
from greenmq.transport.redis import wire
from greenmq.transport.redis.errors import word_of
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.session import Session

__all__ = ('Lookout',)

logger = get_logger('greenmq.transport.redis')

#: Connections that wait at the same time.
MOST = 8
#: Seconds that one command waits at most; less than the health check takes for silence.
LONGEST = 10.0


class _Post:
    """One list, and the connection that waits for it."""

    def __init__(self, lookout: Lookout, key: str) -> None:
        self.key = key
        self.armed = False
        self._lookout = weakref.ref(lookout)
        self.session = Session(lookout._dialler(key), f'{lookout.name} (waits for {key})', self)
        self.session._recovery = runtime.spawn(
            self.session.recover, name=f'redis-lookout {lookout.name}', owner=self.session
        )

    def arm(self) -> bool:
        """Wait from now on; False if there is no connection to do so."""
        link, lookout = self.session.link, self._lookout()
        if link is None or link.error is not None or lookout is None:
            return False
        if not self.armed:
            self.armed = True
            command = ('BLMOVE', self.key, self.key, 'RIGHT', 'RIGHT', lookout.seconds)
            link.send(wire.pack(command), self._told)
        return True

    def _told(self, reply: Any) -> None:  # no switch
        self.armed = False
        lookout = self._lookout()
        if lookout is None or isinstance(reply, AMQPError):
            return  # `on_recovered` goes on
        if isinstance(reply, MovedError):
            if self.session.link is not None:
                self.session.link.lose(ConnectionLost(f'{self.key} is on another node now'))
        elif isinstance(reply, Exception):
            lookout.failed(reply)
        elif reply is not None:
            lookout.tell(self.key)
        elif lookout.wanted(self.key):
            self.arm()

    def on_lost(self, session: Session, error: BaseException) -> None:
        """See `SessionOwner`: meanwhile consumers look by themselves. Switches: no."""
        lookout = self._lookout()
        if lookout is not None:
            lookout.tell(self.key)

    def on_recovered(self, session: Session) -> None:
        """See `SessionOwner`: whoever waits fetches, and arms this again. Switches: no."""
        lookout = self._lookout()
        if lookout is not None:
            lookout.tell(self.key)

    def on_pushed(self, session: Session, push: Any) -> None:
        """See `SessionOwner`. Switches: no."""


class Lookout:
    """Waits for the lists of one transport's consumers.

    Arguments:
        transport (Transport): held weakly.
        interval (float): seconds between health checks; 0 for none.
    """

    def __init__(self, transport: Any, interval: float) -> None:
        self._transport = weakref.ref(transport)
        self.name = transport.session.name
        self.seconds = min(LONGEST, interval / 2) if interval else LONGEST
        self.refused = False
        self._posts: dict[str, _Post] = {}

    def _dialler(self, key: str) -> Any:
        ref = self._transport

        def dial(owner: Any, deadline: runtime.Deadline) -> Link:
            transport = ref()
            if transport is None or transport.client is None:
                raise ConnectionClosed('nobody uses the connection any more')
            link: Link = transport._dial_beside(key, owner, deadline)
            return link

        return dial

    def arm(self, keys: Iterable[str]) -> bool:
        """Have it told when there is something in one of these lists.

        Returns:
            bool: False if not all of them are waited for (yet).
        Switches: no.
        """
        if self.refused:
            return False
        covered = True
        for key in keys:
            post = self._posts.get(key)
            if post is None and (len(self._posts) < MOST or self._drop_unused()):
                post = self._posts[key] = _Post(self, key)
            covered = post is not None and post.arm() and covered
        return covered

    def wanted(self, key: str) -> bool:
        """Does anybody wait for this list? Switches: no."""
        transport = self._transport()
        return transport is not None and transport.session.is_waited_for(key)

    def lose(self, error: BaseException) -> None:
        """Leave all connections, for others. Switches: no."""
        for post in self._posts.values():
            if post.session.link is not None:
                post.session.link.lose(error)

    def tell(self, key: str) -> None:
        """There is something in this list, or there may be. Switches: no."""
        transport = self._transport()
        if transport is not None:
            transport.session.changed([key.encode()])

    def failed(self, error: Exception) -> None:
        """The command was refused: for good, or until the next try. Switches: no."""
        if word_of(error) == 'NOPERM' or 'unknown command' in str(error).lower():
            logger.warning(
                'redis %s refuses BLMOVE as well (%s): consumers look every 10 to 500 ms', self.name, error
            )
            self.refused = True
            keys = list(self._posts)
            self.close()
            for key in keys:
                self.tell(key)  # whoever waits for this does so for long
        else:
            logger.debug('redis %s: BLMOVE: %s', self.name, error)

    def _drop_unused(self) -> bool:
        transport = self._transport()
        unused = [key for key in self._posts if transport is None or not transport.session.is_watched(key)]
        for key in unused:
            self._posts.pop(key).session.close()
        return bool(unused)

    def close(self) -> None:
        """End all connections. Switches: no."""
        posts, self._posts = self._posts, {}
        for post in posts.values():
            post.session.close()

    def leave(self) -> None:
        """Let go of all connections: the transport goes on in another thread. Switches: no."""
        posts, self._posts = self._posts, {}
        for post in posts.values():
            post.session.leave()

    def __repr__(self) -> str:
        return f'<Lookout {self.name}: {sorted(self._posts)}>'
