"""How messages are waited for where the server does not tell of changed keys (no CLIENT TRACKING).

``BLMOVE list list RIGHT RIGHT`` puts the message in front back to where it was, in one step at the server: it
takes nothing, keeps the order, and answers as soon as there is one, also if it came between the fetch that
found none and this command. So its answer only means "fetch again", and whoever dies meanwhile loses nothing.
A connection can wait for one list at a time: each gets its own, up to MOST of them. For further lists, and
where the command is forbidden too, consumers look every 10 to 500 ms.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import MovedError

from greenmq.exceptions import AMQPError, ConnectionLost
from greenmq.log import get_logger
from greenmq.transport.redis import resp
from greenmq.transport.redis.errors import word_of
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.server import Server, ServerOwner, weakly
from greenmq.transport.redis.watches import Watchers

__all__ = ('BlockingWait', 'BlockingWaits')

logger = get_logger('greenmq.transport.redis')

#: Connections that wait at the same time.
MOST = 8
#: Seconds that one command waits at most; less than the health check takes for silence.
LONGEST = 10.0


class BlockingWait(ServerOwner):
    """One list, and the connection that waits for it.

    Attributes:
        armed (bool): the command is on its way.
    """

    def __init__(self, waits: BlockingWaits, key: str, dial: Callable[..., Link]) -> None:
        self.key = key
        self.armed = False
        self._waits = weakref.ref(waits)
        self.server = Server(weakly(dial, key), f'{waits.name} (waits for {key})', self)
        self.server.begin()

    def arm(self) -> bool:
        """Wait from now on; False if there is no connection to do so."""
        link, waits = self.server.link, self._waits()
        if link is None or link.error is not None or waits is None:
            return False
        if not self.armed:
            self.armed = True
            command = ('BLMOVE', self.key, self.key, 'RIGHT', 'RIGHT', waits.seconds)
            link.send(resp.pack(command), self._answered)
        return True

    def _answered(self, reply: Any) -> None:  # no switch
        self.armed = False
        waits = self._waits()
        if waits is None or isinstance(reply, AMQPError):
            return  # `on_recovered` goes on
        if isinstance(reply, MovedError):
            self.lose(ConnectionLost(f'{self.key} is on another node now'))
        elif isinstance(reply, Exception):
            waits.failed(reply)
        elif reply is not None:
            waits.tell(self.key)
        elif waits.wanted(self.key):
            self.arm()

    def lose(self, error: BaseException) -> None:
        """Leave this connection for another one."""
        if self.server.link is not None:
            self.server.link.lose(error)

    def on_lost(self, server: Server, error: BaseException) -> None:
        """See `ServerOwner`: meanwhile consumers look by themselves."""
        self.on_recovered(server)

    def on_recovered(self, server: Server) -> None:
        """See `ServerOwner`: whoever waits fetches, and arms this again."""
        waits = self._waits()
        if waits is not None:
            waits.tell(self.key)


class BlockingWaits:
    """Waits for the lists of one session's consumers.

    Arguments:
        name (str): of the server, for texts.
        watchers (Watchers): who is told that there may be something in a list.
        dial (Callable): a bound method (key, owner, deadline) that opens a link to the server of a key;
            its object is held weakly.
        interval (float): seconds between health checks; 0 for none.
    Attributes:
        by_list (dict[str, BlockingWait]): those there are, by the list's key.
    """

    def __init__(self, name: str, watchers: Watchers, dial: Callable[..., Link], interval: float) -> None:
        self.name = name
        self.seconds = min(LONGEST, interval / 2) if interval else LONGEST
        self.refused = False
        self.by_list: dict[str, BlockingWait] = {}
        self._watchers = watchers
        self._dial = weakref.WeakMethod(dial)

    def arm(self, keys: Iterable[str]) -> bool:
        """Have it told when there is something in one of these lists.

        Returns:
            bool: False if not all of them are waited for (yet).
        """
        dial = self._dial()
        if self.refused or dial is None:
            return False
        covered = True
        for key in keys:
            wait = self.by_list.get(key)
            if wait is None and (len(self.by_list) < MOST or self._drop_unused()):
                wait = self.by_list[key] = BlockingWait(self, key, dial)
            covered = wait is not None and wait.arm() and covered
        return covered

    def wanted(self, key: str) -> bool:
        """Does anybody wait for this list?"""
        return self._watchers.is_waited_for(key)

    def lose(self, error: BaseException) -> None:
        """Leave all connections, for others."""
        for wait in self.by_list.values():
            wait.lose(error)

    def tell(self, key: str) -> None:
        """There is something in this list, or there may be."""
        self._watchers.changed([key.encode()])

    def failed(self, error: Exception) -> None:
        """The command was refused: for good, or until the next try."""
        if word_of(error) == 'NOPERM' or 'unknown command' in str(error).lower():
            logger.warning(
                'redis %s refuses BLMOVE as well (%s): consumers look every 10 to 500 ms', self.name, error
            )
            self.refused = True
            keys = list(self.by_list)
            self.close()
            for key in keys:
                self.tell(key)  # whoever waits for this does so for long
        else:
            logger.debug('redis %s: BLMOVE: %s', self.name, error)

    def _drop_unused(self) -> bool:
        unused = [key for key in self.by_list if not self._watchers.is_watched(key)]
        for key in unused:
            self.by_list.pop(key).server.close()
        return bool(unused)

    def _taken_out(self) -> list[BlockingWait]:
        waits, self.by_list = self.by_list, {}
        return list(waits.values())

    def close(self) -> None:
        """End all connections."""
        for wait in self._taken_out():
            wait.server.close()

    def leave(self) -> None:
        """Let go of all connections: the session goes on in another thread."""
        for wait in self._taken_out():
            wait.server.leave()

    def __repr__(self) -> str:
        return f'<BlockingWaits {self.name}: {sorted(self.by_list)}>'
