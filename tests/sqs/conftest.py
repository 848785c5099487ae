"""Connections to an emulator of SQS, straight or through the counting and faulting proxy."""

from __future__ import annotations

import pytest

from tests.support.http_proxy import HTTPProxy


@pytest.fixture
def proxy(fauxqs):
    with HTTPProxy(fauxqs.port) as proxy:
        yield proxy


@pytest.fixture
def connect(polls_end, opened):
    """Open a connection to a URL; closed at the end of the test."""
    return lambda url, **options: opened(url, **{'wait_time_seconds': 1, **options})
