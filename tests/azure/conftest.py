"""Connections to Azurite, straight or through the counting and faulting proxy."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.support.cloud import opener
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
    with opener(polling_interval=0.2) as connect:
        yield connect
