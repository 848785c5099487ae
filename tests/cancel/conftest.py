"""Every test here runs on the plain in-memory transport and on one whose every step is a round trip."""
from __future__ import annotations

import pytest


@pytest.fixture(params=['plain', 'slow'])
def transport(request):
    return request.param
