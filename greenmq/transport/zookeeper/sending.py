"""How messages get into their queues: many in one transaction, each exactly once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kazoo.exceptions import BadVersionError, ConnectionLoss, NoNodeError

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, NotFound
from greenmq.transport.driver import Put
from greenmq.transport.zookeeper.member import Member
from greenmq.transport.zookeeper.nodes import Nodes, first_failure

__all__ = ('HEAD', 'Sending')

#: Bytes of a packet that are not data: path, rights and version of one entry.
HEAD = 512


class Sending:
    """The publishes of one driver, one transaction at a time.

    A transaction also raises the version of a node of our own. So when its reply is lost with the connection,
    the same one is sent again over the next connection, and is refused if it has happened.

    Arguments:
        max_packet (int): bytes of a request that the server takes.
    """

    def __init__(self, nodes: Nodes, max_packet: int) -> None:
        self._nodes = nodes
        self._max_packet = max_packet

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        """See `Driver.put`. Switches: yes."""
        outcomes: list[Exception | None] = [None] * len(items)
        left = list(range(len(items)))
        while left:
            part = self._fitting(items, left)
            failed = self._send([items[number] for number in part], deadline)
            if failed is None:
                left = left[len(part) :]
                continue
            at, error = failed
            if not isinstance(error, NoNodeError):
                raise error
            queue = items[part[at]].queue
            for number in left:
                if items[number].queue == queue:
                    outcomes[number] = NotFound(f'no queue {queue!r}')
            left = [number for number in left if items[number].queue != queue]
        return outcomes

    def _fitting(self, items: list[Put], left: list[int]) -> list[int]:
        part: list[int] = []
        size = 0
        for number in left:
            size += len(items[number].payload) + HEAD
            if part and size > self._max_packet:
                break
            part.append(number)
        return part

    def _send(self, items: list[Put], deadline: runtime.Deadline) -> tuple[int, Exception] | None:
        member = self._nodes.member
        version, sent, again = -1, False, False
        while True:
            try:
                if not sent:
                    version = self._version(member, deadline)
                    sent, member.sure = True, False  # until there is a reply that somebody reads
                results = self._nodes.commit(self._transaction(items, version)).get(timeout=deadline)
            except ConnectionLoss:
                again = sent
                member.wait_connected(deadline)
                continue
            break
        member.sure = True
        failure = first_failure(results)
        if failure is None or (again and failure[0] == 0 and isinstance(failure[1], BadVersionError)):
            member.version = version + 1
            return None
        at, error = failure
        if at == 0:
            raise ConnectionLost(f'the session with ZooKeeper is over: {error!r}')
        return at - 1, error

    def _version(self, member: Member, deadline: runtime.Deadline) -> int:
        if not member.sure:
            # Somebody was killed, or out of time, while he waited for his reply: it may have happened.
            stat = self._nodes.stat(member.counter, deadline)
            if stat is None:
                raise ConnectionLost('the session with ZooKeeper is over: its nodes are gone')
            member.version, member.sure = stat.version, True
        return member.version

    def _transaction(self, items: list[Put], version: int) -> Any:
        member, layout = self._nodes.member, self._nodes.layout
        transaction = member.client.transaction()
        transaction.set_data(member.counter, b'', version=version)
        for item in items:
            path = f'{layout.queue(item.queue)}/entry-{9 - item.priority:03d}-'
            transaction.create(path, item.payload, sequence=True)
        return transaction
