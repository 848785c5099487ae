"""memory:// as if it were a network: every step that would be a round trip lets other greenlets run."""
from __future__ import annotations

from greenmq.transport import memory
from tests.support import green


def round_trip():
    green.sleep(0)


class Channel(memory.Channel):
    """A channel whose broker is far away."""

    def __init__(self, *args, **kwargs):
        round_trip()
        super().__init__(*args, **kwargs)
        round_trip()

    def basic_publish(self, *args, **kwargs):
        round_trip()
        super().basic_publish(*args, **kwargs)
        round_trip()

    def _new_queue(self, queue, **kwargs):
        round_trip()
        return super()._new_queue(queue, **kwargs)

    def close(self):
        round_trip()
        super().close()


class Transport(memory.Transport):
    """A transport whose connections and channels take their time."""

    Channel = Channel

    def establish_connection(self):
        round_trip()
        connection = super().establish_connection()
        round_trip()
        return connection

    def close_connection(self, connection):
        round_trip()
        super().close_connection(connection)
