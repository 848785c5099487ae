"""kazoo's client on our handler, with the watches of ZooKeeper 3.6 that it lacks."""

from __future__ import annotations

import random
import weakref
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from kazoo.client import KazooClient
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Create, int_struct, write_string
from kazoo.retry import KazooRetry

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.zookeeper.handler import AsyncResult, Handler

__all__ = ('Client',)

#: kazoo's words on its connections are of no use to programs: we say what was lost.
_log = get_logger('greenmq.transport.zookeeper.kazoo')

_RECURSIVE = 1  # AddWatchMode.PERSISTENT_RECURSIVE
_ANY = 3  # WatcherType.Any


class _AddWatch:
    """Watch a node and all below it until this is undone."""

    type = 106

    def __init__(self, path: str) -> None:
        self.path = path

    def serialize(self) -> bytes:
        return bytes(write_string(self.path)) + bytes(int_struct.pack(_RECURSIVE))

    @classmethod
    def deserialize(cls, data: Any, offset: int) -> bool:
        return True


class _RemoveWatches:
    type = 18

    def __init__(self, path: str) -> None:
        self.path = path

    def serialize(self) -> bytes:
        return bytes(write_string(self.path)) + bytes(int_struct.pack(_ANY))

    @classmethod
    def deserialize(cls, data: Any, offset: int) -> bool:
        return True


class _Watchers(defaultdict[str, Any]):
    """kazoo's table of who watches a path, once; and who hears of every path, always."""

    def __init__(self, heard: Callable[[Any], Any]) -> None:
        super().__init__(set)
        self._heard = heard

    def pop(self, path: str, *default: Any) -> list[Any]:
        """Who is to be told of a path."""
        return [*super().pop(path, ()), self._heard]


class _Connection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's loop, which looks no name up: that would block the hub, and `runtime.dial` does it.

    It holds its client, which holds it, only while it runs: later both are gone without the collector.
    """

    @property
    def client(self) -> Any:
        return self._client()

    @client.setter
    def client(self, client: Client) -> None:
        self._client = weakref.ref(client)

    def zk_loop(self) -> None:
        client = self.client  # not gone before the last line of the loop
        super().zk_loop()
        del client

    def _expand_client_hosts(self) -> list[tuple[str, str, int]]:
        hosts = [(host, host, port) for host, port in self.client.hosts]
        random.shuffle(hosts)
        return hosts


class Client(KazooClient):  # type: ignore[misc]
    """A session with ZooKeeper.

    Arguments:
        hosts (str): 'host:port,host:port'.
        dial (Callable): see `Handler`.
        heard (Callable): gets each event of `watch_all`, as kazoo's WatchedEvent; must not wait.
        options (object): for kazoo.
    """

    def __init__(self, hosts: str, dial: Any, heard: Callable[[Any], Any], **options: Any) -> None:
        self._heard = heard
        self.green = Handler(dial)
        super().__init__(
            hosts, handler=self.green, logger=_log, connection_retry=KazooRetry(
                max_tries=-1, delay=0.05, backoff=1.5, max_delay=1.0, max_jitter=0.3,
                sleep_func=self.green.sleep_func,
            ),
            command_retry=KazooRetry(max_tries=1, sleep_func=self.green.sleep_func), **options,
        )  # fmt: skip
        self._let_go()
        self._connection = _Connection(self, self._conn_retry.copy(), logger=_log)

    def _let_go(self) -> None:
        # Of kazoo's recipes, and what they try again by: they hold us, and nobody here uses them.
        for name, value in list(vars(self).items()):
            if isinstance(value, partial) and value.args == (self,):
                delattr(self, name)
        del self.retry
        self._conn_retry.interrupt = self._stopped.is_set

    def _reset_watchers(self) -> None:
        super()._reset_watchers()
        self._data_watchers = _Watchers(self._heard)

    def create_async(
        self, path: str, value: bytes = b'', acl: Any = None, ephemeral: bool = False
    ) -> AsyncResult:  # fmt: skip
        """Make a node, as kazoo does, but by no functions that hold each other and wait for the collector.

        Source: kazoo.client.KazooClient.create_async.
        """
        return self._ask(Create(path, value, acl or self.default_acl, int(ephemeral)))

    def watch_all(self, path: str) -> AsyncResult:
        """Hear of every node that is made, changed or deleted at a path and below.

        Returns:
            AsyncResult: its error is kazoo's UnimplementedError from servers before 3.6.
        """
        return self._ask(_AddWatch(path))

    def unwatch(self, path: str) -> AsyncResult:
        """Undo `watch_all`."""
        return self._ask(_RemoveWatches(path))

    def _ask(self, request: Any) -> AsyncResult:
        result = self.green.async_result()
        self._call(request, result)
        return result

    def leave(self, deadline: runtime.Deadline) -> None:
        """End the session at the server, if that goes in time, and the client in any case. Switches: yes."""
        try:
            task = runtime.spawn(self.stop, name='zookeeper-stop')
            task.join(deadline)
            task.kill()
        finally:
            self.green.abandon()
