"""One session with ZooKeeper, and the nodes of its owner: by one others know that we live."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooState
from kazoo.exceptions import NodeExistsError
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ConnectionLost
from greenmq.transport.waiters import WaitingLine
from greenmq.transport.zookeeper.client import Client
from greenmq.transport.zookeeper.layout import Layout

__all__ = ('Member',)

#: Part of the session's time without a connection after which we hold nothing any more: before the server
#: gives it to others.
_SURE = 2 / 3


class Member:
    """An owner of messages: from the start of a session until it is over.

    It is over when the server has ended the session, or when there was no connection for so long that it may
    have: what the owner held is somebody else's then, and it never comes back.

    Arguments:
        layout (Layout): where its node goes.
        timeout (float): seconds after which the server ends a session that it hears nothing of.
        told (Callable[[str], Any]): gets 'away', 'back' and 'over'; must not wait.
        heard (Callable): see `Client`.
    Attributes:
        name (str): of the owner. path (str): of the node by which others know it. over (bool): see above.
        counter (str): path of the node whose version each publish raises, see `sending`; version (int): its,
            if it is known, which `sure` (bool) tells.
    """

    def __init__(self, layout: Layout, timeout: float, told: Any, heard: Any) -> None:
        self.name = f'{os.getpid()}-{os.urandom(8).hex()}'
        self.path, self.counter = f'{layout.owners}/{self.name}', f'{layout.counters}/{self.name}'
        self.over = False
        self.version = 0
        self.sure = True
        self.client: Client = None  # type: ignore[assignment]
        self._layout = layout
        self._timeout = timeout
        self._told = told
        self._heard = heard
        self._waiting = WaitingLine()
        self._timer: runtime.Timer | None = None
        self._closing = False

    def start(self, hosts: str, dial: Any, auth: Any, acl: str, deadline: runtime.Deadline) -> None:
        """Begin the session, and make the nodes that are needed.

        Arguments:
            hosts (str), dial (Callable): see `Client`.
            auth (list[tuple[str, str]]): schemes of ZooKeeper and credentials.
        Raises:
            TimeoutError: not reached. AccessRefused: those credentials are not taken.
        Switches: yes. Failed or killed: the session is ended.
        """
        self.client = Client(
            hosts, dial, self._heard, timeout=self._timeout, auth_data=auth or None,
            default_acl=CREATOR_ALL_ACL if acl == 'creator' else OPEN_ACL_UNSAFE,
        )  # fmt: skip
        told = weakref.WeakMethod(self._changed)
        self.client.add_listener(lambda state: _tell(told, state))
        try:
            self.client.start_async()
            self.wait_connected(deadline)
            for path in self._layout.folders:
                self.client.ensure_path_async(path).get(timeout=deadline)
            for path in (self.counter, self.path):
                try:
                    self.client.create_async(path, b'', ephemeral=True).get(timeout=deadline)
                except NodeExistsError:
                    continue  # its reply was lost, and the name is ours alone
        except BaseException:
            self._closing = self.over = True
            self.client.green.abandon()
            raise

    def wait_connected(self, deadline: runtime.Deadline) -> None:
        """Wait for the connection.

        Raises:
            TimeoutError: not in time. ConnectionLost: it is over. AccessRefused: the server refuses us.
        Switches: only if it is not there.
        """
        while not self.client.connected or self.over:
            if self.client.client_state == 'AUTH_FAILED':
                raise AccessRefused('ZooKeeper refuses these credentials')
            if self.over:
                raise ConnectionLost('the session with ZooKeeper is over')
            self._waiting.wait(deadline, 'ZooKeeper was not reached')

    def _changed(self, state: str) -> None:
        # In kazoo's loop: must not wait.
        if self._closing:
            return
        if state == KazooState.SUSPENDED:
            if self._timer is None:
                self._timer = runtime.call_later(self._timeout * _SURE, _end, weakref.ref(self))
            self._told('away')
        elif state == KazooState.CONNECTED:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._told('back')
        elif state == KazooState.LOST:
            self.end()
        self._waiting.wake()

    def end(self) -> None:
        """The owner is over."""
        if not self.over:
            self.over = True
            self._told('over')
            self._waiting.wake()

    def leave(self, deadline: runtime.Deadline) -> None:
        """End the session: what the owner still holds goes back. Switches: yes."""
        self._closing = self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.client.connected:
            self.client.leave(deadline)
        else:
            self.client.green.abandon()
        self._waiting.wake()

    def forget(self) -> None:
        """In a forked child: the session is the parent's."""
        self._closing = self.over = True


def _tell(told: Callable[[], Any], state: str) -> None:
    method = told()
    if method is not None:
        method(state)


def _end(reference: Callable[[], Member | None]) -> None:
    member = reference()
    if member is not None:
        member.end()
