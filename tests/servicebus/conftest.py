"""Connections to the program that plays Azure Service Bus, straight or through the faulting proxy."""

from __future__ import annotations

import pytest

from tests.support.proxy import Proxy

#: What tests may have set otherwise.
SETTINGS = {'lock': 60.0, 'idle_link': 0.0, 'idle_connection': 0.0, 'max_message': 1048576, 'credit': 500}


@pytest.fixture
def bus(servicebus):
    """The peer, with its counts at zero."""
    servicebus.counts(clear=True)
    yield servicebus
    servicebus.ask('set', **SETTINGS)


@pytest.fixture
def proxy(bus):
    with Proxy(bus.port) as proxy:
        yield proxy


@pytest.fixture
def connect(opened):
    """Open a connection to a URL; closed at the end of the test."""
    return opened
