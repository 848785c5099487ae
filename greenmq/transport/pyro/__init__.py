"""A broker over Pyro: ``greenmq pyro-broker`` on one side, the transport of ``pyro://`` on the other.

Both speak Pyro5's protocol by its own messages and serializers, on greenmq's streams: no proxy, no thread,
and calls that do not wait for each other. The broker is a daemon with one object; whatever speaks Pyro5 may
call its methods.

`frames.py` cuts what comes into Pyro's messages, for both sides. `wire.py` makes calls, `driver.py` is what
the base of transports needs of them. `broker.py` is the daemon, on greenmq's store in a file.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport

try:
    import Pyro5
    from Pyro5 import errors

    from greenmq.transport.pyro.driver import PyroDriver
except ModuleNotFoundError as error:
    if error.name not in ('Pyro5', 'serpent'):
        raise
    raise ImportError('the pyro transport needs Pyro5: pip install greenmq[pyro]', name='Pyro5') from None

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``pyro://``."""

    Driver = PyroDriver
    driver_type = driver_name = 'pyro'
    default_port = 9090
    connection_errors = (*DriverTransport.connection_errors, errors.CommunicationError)
    channel_errors = (*DriverTransport.channel_errors, errors.PyroError)

    def place(self) -> Place:
        """Where the broker is. The path names its object, and may be left out."""
        place = super().place()
        return place._replace(virtual_host=place.virtual_host.strip('/'))

    def driver_version(self) -> str:
        """The version of Pyro."""
        return str(Pyro5.__version__)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Port and host where the URL names none."""
        return {'port': self.default_port, 'hostname': '127.0.0.1'}
