"""Nodes of ZooKeeper, asked for and changed by the member that lives now: what the driver's parts share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kazoo.exceptions import NodeExistsError, NoNodeError, RolledBackError, RuntimeInconsistency

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.zookeeper.layout import Layout
from greenmq.transport.zookeeper.member import Member

__all__ = ('OPERATION', 'PACKET', 'Nodes', 'first_failure')

#: Seconds for what the base gives no deadline, and deletions that one packet carries.
OPERATION, PACKET = 30.0, 500


def first_failure(results: list[Any]) -> tuple[int, Exception] | None:
    """Return which part of a transaction failed, and how; None if all of it was done.

    Those before it were rolled back, those after it were not tried.
    """
    for number, result in enumerate(results):
        if isinstance(result, Exception) and not isinstance(result, (RolledBackError, RuntimeInconsistency)):
            return number, result
    return None


class Nodes:
    """The nodes of one virtual host.

    Attributes:
        layout (Layout): where what is.
        present (Member | None): the session that there is now.
        packets (int): transactions and reads of messages so far.
    """

    def __init__(self, virtual_host: str) -> None:
        self.layout = Layout(virtual_host)
        self.present: Member | None = None
        self.packets = 0

    @property
    def member(self) -> Member:
        """The session that there is now.

        Raises:
            ConnectionClosed: there is none.
        """
        if self.present is None:
            raise ConnectionClosed('the session with ZooKeeper was closed')
        return self.present

    @property
    def client(self) -> Any:
        """kazoo's client of that session."""
        return self.member.client

    def commit(self, transaction: Any) -> Any:
        """Send a transaction; return the result that comes."""
        self.packets += 1
        return transaction.commit_async()

    def read(self, path: str, deadline: runtime.Deadline) -> tuple[bytes, Any] | None:
        """Return the data and the facts of a node, or None. Switches: yes."""
        try:
            found: tuple[bytes, Any] = self.client.get_async(path).get(timeout=deadline)
        except NoNodeError:
            return None
        return found

    def write(self, path: str, data: bytes, deadline: runtime.Deadline) -> None:
        """Make a node, or change it. Switches: yes."""
        client = self.client
        try:
            client.create_async(path, data).get(timeout=deadline)
        except NodeExistsError:
            client.set_async(path, data).get(timeout=deadline)

    def stat(self, path: str, deadline: runtime.Deadline) -> Any:
        """Return the facts of a node, or None. Switches: yes."""
        return self.client.exists_async(path).get(timeout=deadline)

    def children(self, path: str, deadline: runtime.Deadline) -> list[str]:
        """Return the names below a node; none if it is not there. Switches: yes."""
        try:
            found: list[str] = self.client.get_children_async(path).get(timeout=deadline)
        except NoNodeError:
            return []
        return found

    def remove(self, paths: list[str], deadline: runtime.Deadline) -> int:
        """Delete nodes, in few packets; return how many of them were there. Switches: yes."""
        removed = 0
        flights = [(part, self.commit(self.deleting(part))) for part in _parts(paths)]
        for part, result in flights:
            if first_failure(result.get(timeout=deadline)) is None:
                removed += len(part)
                continue
            # One that is gone undoes the others, too.
            for single in [self.client.delete_async(path) for path in part]:
                try:
                    single.get(timeout=deadline)
                except NoNodeError:
                    continue
                removed += 1
        return removed

    def deleting(self, paths: Iterable[str]) -> Any:
        """A transaction that deletes nodes."""
        transaction = self.client.transaction()
        for path in paths:
            transaction.delete(path)
        return transaction


def _parts(paths: list[str]) -> list[list[str]]:
    return [paths[at : at + PACKET] for at in range(0, len(paths), PACKET)]
