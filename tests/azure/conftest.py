"""Connections to Azurite, straight or through the counting and faulting proxy."""

from __future__ import annotations

import pytest

from tests.support.http_proxy import HTTPProxy


@pytest.fixture
def proxy(azurite):
    with HTTPProxy(azurite.port) as proxy:
        yield proxy


@pytest.fixture
def connect(opened):
    """Open a connection to a URL; closed at the end of the test."""
    return lambda url, **options: opened(url, **{'polling_interval': 0.2, **options})
