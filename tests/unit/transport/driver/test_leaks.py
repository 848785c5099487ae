"""A call that fails leaves nothing that only the garbage collector could free (P47)."""
from __future__ import annotations

import logging

import pytest

from tests.support import census

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('plan', [
    lambda faults: faults.fail('put', 'forbidden'),
    lambda faults: faults.partly('put', 0, 'forbidden'),
    lambda faults: faults.cut('put'),
], ids=['refused', 'refused-in-a-batch', 'cut'])
def test_a_publish_that_fails(either, plan, caplog):
    caplog.set_level(logging.CRITICAL)  # a record would keep its error
    either.queue()

    def publish():
        plan(either.faults)
        with pytest.raises(Exception):  # noqa: B017 - which one is tested elsewhere
            either.publish('x', timeout=5)
        either.faults.calls.clear()
        either.left()

    grown = census.growth(publish, 20)
    assert grown.objects_per_round < 1, str(grown)
