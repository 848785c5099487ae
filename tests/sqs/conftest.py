"""Connections to an emulator of SQS, straight or through the counting and faulting proxy."""

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
    return f'sqs-{os.getpid()}-{next(_numbers)}'


@pytest.fixture
def proxy(fauxqs):
    with HTTPProxy(fauxqs.port) as proxy:
        yield proxy


@pytest.fixture
def connect(polls_end):
    """Open a connection to a URL; closed at the end of the test."""
    with opener(wait_time_seconds=1) as connect:
        yield connect
