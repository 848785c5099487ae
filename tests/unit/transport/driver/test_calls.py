"""How many Python functions a message takes by way of the base; the fakes' own are among them."""
from __future__ import annotations

import pytest

from benchmarks import calls
from tests.support import green

pytestmark = [pytest.mark.slow, pytest.mark.skipif(green.RUNTIME != 'gevent', reason='recorded on gevent')]

#: Calls a message, which may only fall.
MOST = {
    'fake-look': {'publish': 104, 'deliver': 47, 'ack': 18},
    'fake-lease': {'publish': 107, 'deliver': 57, 'ack': 19},
    'fake-push': {'publish': 107, 'deliver': 62, 'ack': 25},
}


@pytest.mark.parametrize('kind', MOST)
def test_a_message_takes_no_more_calls_than_before(kind):
    found = calls.figures(calls.measure(f'{kind}://localhost/calls'))
    for stage, most in MOST[kind].items():
        assert found[stage] <= most, f'{kind} {stage}: {found[stage]} calls a message, {most} at most'
