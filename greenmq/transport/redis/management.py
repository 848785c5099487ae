"""What may be asked of a Redis database beside messages: its queues."""

from __future__ import annotations

from greenmq import runtime
from greenmq.transport import virtual
from greenmq.transport.redis.replies import TEXTS

__all__ = ('Management',)

#: Seconds to look through the database.
PATIENCE = 30.0


class Management(virtual.Management):
    """Questions to a Redis server.

    Source: kombu virtual.Management.
    """

    def get_queues(self) -> list[str]:
        """Return the names of the queues that greenmq declared, and of those that any program has bound.

        Switches: yes.
        """
        driver, deadline = self.transport.driver, runtime.Deadline.after(PATIENCE)
        key = driver.keys.queues
        declared = driver.server.execute(('HKEYS', key), key, deadline, TEXTS)
        found = {bytes(name).decode(errors='backslashreplace') for name in declared}
        if not driver.clustered:  # a cluster has no one place to look for the keys of other programs
            found |= driver.tables.all_queues(deadline)
        return sorted(found)
