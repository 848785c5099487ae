"""Connections to Azurite, straight or through the counting and faulting proxy."""

from __future__ import annotations

import itertools
import os

import pytest

from greenmq import Connection
from tests.support.http_proxy import HTTPProxy

_numbers = itertools.count(1)


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f'az-{os.getpid()}-{next(_numbers)}'


@pytest.fixture
def proxy(azurite):
    with HTTPProxy(azurite.port) as proxy:
        yield proxy


@pytest.fixture
def connect():
    """Open a connection to a URL; closed at the end of the test."""
    opened = []

    def connect(url, **options):
        options.setdefault('polling_interval', 0.2)
        connection = Connection(url, transport_options=options)
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()
