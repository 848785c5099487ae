"""Queues as files in a folder, as kombu's transport of this name keeps them; both may work on one folder.

A message is one file. Who takes it moves it into a folder of its own, and removes it when it is done; what a
dead process held goes back. Consumers are woken by the system when a file comes.

`names.py` says what a file's name means, `watch.py` tells which files came, `bindings.py` has kombu's
exchange files, `writer.py` puts messages and `folder.py` takes and settles them, `driver.py` is what the base
of transports needs.
"""

from __future__ import annotations

from greenmq.transport.driver import Channel
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.filesystem.driver import FilesystemDriver

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``filesystem://``."""

    Driver = FilesystemDriver
    driver_type = 'filesystem'
    driver_name = 'filesystem'
